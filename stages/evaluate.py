"""Measure the base model on the test split; write metrics, tables and pictures."""

from isoflop.data.arrays import read_split
from isoflop.data.image_names import read_names
from isoflop.evaluation.scores import Evaluate
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    evaluate: Evaluate


def main(params: Params, model: In, test: In, names: In, metrics: Out, headline: Out, predictions: Out, mistakes: Out,
         reliability: Out, per_class: Out, confusion_picture: Out, reliability_picture: Out, mistakes_picture: Out,
         saliency: Out) -> None:  # fmt: skip
    from isoflop.evaluation.reporting import Evaluated
    from isoflop.models.model_files import load_model

    split = read_split(test)
    evaluated = Evaluated(load_model(model).net, split, read_names(names, "test", len(split)), params.evaluate)
    evaluated.write_metrics(metrics, reliability, per_class)
    evaluated.write_headline(headline)
    evaluated.write_predictions(predictions, mistakes)
    evaluated.draw(confusion_picture, reliability_picture, mistakes_picture, saliency)


if __name__ == "__main__":
    run(main)
