"""Remove channels of the base model and train the rest further."""

from isoflop.arrays import read_split, read_views
from isoflop.params import Section
from isoflop.pruning import Prune, prune
from isoflop.recipe import Recipe
from isoflop.stage import In, Out, run


class Params(Section):
    recipe: Recipe
    prune: Prune


def main(params: Params, base: In, train: In, val: In, views: In, model: Out, metrics: Out) -> None:
    from isoflop.model_files import load_model

    data = read_split(train), read_views(views), read_split(val)
    prune(load_model(base), params.recipe, params.prune, *data, folder=model, metrics=metrics)


if __name__ == "__main__":
    run(main)
