"""Train a model further under the rounding of 8 bits."""

from isoflop.arrays import read_split, read_views
from isoflop.params import Section, varied
from isoflop.qat import Qat, train_quantized
from isoflop.recipe import Recipe
from isoflop.stage import In, Out, run


class Params(Section):
    recipe: Recipe
    qat: Qat = varied(by="variants.qat")


def main(params: Params, of: In, train: In, val: In, views: In, model: Out, metrics: Out) -> None:
    from isoflop.model_files import load_model

    data = read_split(train), read_views(views), read_split(val)
    train_quantized(load_model(of), params.recipe, params.qat, *data, folder=model, metrics=metrics)


if __name__ == "__main__":
    run(main)
