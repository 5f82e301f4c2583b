"""Train the base model."""

from isoflop.architecture import ModelParams
from isoflop.arrays import read_split, read_views
from isoflop.params import Section
from isoflop.recipe import Recipe, Train
from isoflop.stage import In, Out, run


class Params(Section):
    model: ModelParams
    recipe: Recipe
    train: Train


def main(params: Params, train: In, val: In, views: In, model: Out, curves: Out, metrics: Out) -> None:
    from isoflop.base_training import train_base

    data = read_split(train), read_views(views), read_split(val)
    train_base(params.model, params.recipe, params.train, *data, folder=model, curves=curves, metrics=metrics)


if __name__ == "__main__":
    run(main)
