"""Teach a narrower network with the model that it is a variant of."""

from isoflop.arrays import read_split, read_views
from isoflop.distillation import Distill, distill
from isoflop.params import Section, varied
from isoflop.recipe import Recipe
from isoflop.stage import In, Out, run


class Params(Section):
    recipe: Recipe
    distill: Distill = varied(by="variants.distill")


def main(params: Params, of: In, train: In, val: In, views: In, model: Out, metrics: Out) -> None:
    from isoflop.model_files import load_model

    data = read_split(train), read_views(views), read_split(val)
    distill(load_model(of), params.recipe, params.distill, *data, folder=model, metrics=metrics)


if __name__ == "__main__":
    run(main)
