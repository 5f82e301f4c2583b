"""Measure the base model on the test split; write metrics, tables and pictures."""

from isoflop.data.arrays import read_split
from isoflop.evaluation.scores import Evaluate
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    evaluate: Evaluate


def main(params: Params, model: In, test: In, metrics: Out, headline: Out, predictions: Out, reliability: Out,
         per_class: Out, confusion_picture: Out, reliability_picture: Out, mistakes: Out,
         saliency: Out) -> None:  # fmt: skip
    from isoflop.evaluation.reporting import Evaluated
    from isoflop.models.model_files import load_model

    evaluated = Evaluated(load_model(model).net, read_split(test), params.evaluate)
    evaluated.write_tables(metrics, predictions, reliability, per_class)
    evaluated.write_headline(headline)
    evaluated.draw(confusion_picture, reliability_picture, mistakes, saliency)


if __name__ == "__main__":
    run(main)
