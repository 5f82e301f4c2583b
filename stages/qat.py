"""Train a model further under the rounding of 8 bits."""

from isoflop.compression.qat import Qat, train_quantized
from isoflop.data.arrays import read_training_data
from isoflop.runtime.params import Section, varied
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.training.recipe import Recipe


class Params(Section):
    recipe: Recipe
    qat: Qat = varied(by="variants.qat")


def main(params: Params, of: In, train: In, val: In, views: In, model: Out, metrics: Out) -> None:
    from isoflop.models.model_files import load_model

    data = read_training_data(train, views, val)
    train_quantized(load_model(of), params.recipe, params.qat, data, folder=model, metrics=metrics)


if __name__ == "__main__":
    run(main)
