"""Train the base model."""

from isoflop.data.arrays import read_training_data
from isoflop.models.architecture import ModelParams
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.training.recipe import Recipe, Train


class Params(Section):
    model: ModelParams
    recipe: Recipe
    train: Train


def main(params: Params, train: In, val: In, views: In, pretrained: In, weights: In, model: Out, curves: Out,
         metrics: Out, speed: Out) -> None:  # fmt: skip
    from isoflop.models.pretrained import read_checkpoint
    from isoflop.training.base_training import train_base

    start = (checkpoint, weights) if (checkpoint := read_checkpoint(pretrained)) else None
    data = read_training_data(train, views, val)
    how = params.model, params.recipe, params.train
    train_base(*how, data, start=start, folder=model, curves=curves, metrics=metrics, speed=speed)


if __name__ == "__main__":
    run(main, whole_params=True)
