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


def main(params: Params, train: In, val: In, views: In, model: Out, curves: Out, metrics: Out, speed: Out) -> None:
    from isoflop.base_training import train_base

    data = read_split(train), read_views(views), read_split(val)
    how = params.model, params.recipe, params.train
    train_base(*how, *data, folder=model, curves=curves, metrics=metrics, speed=speed)


if __name__ == "__main__":
    run(main, whole_params=True)
