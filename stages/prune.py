"""Remove channels of a model and train the rest further."""

from isoflop.arrays import read_split, read_views
from isoflop.params import Section, varied
from isoflop.pruning import Prune, prune
from isoflop.recipe import Recipe
from isoflop.stage import In, Out, run


class Params(Section):
    recipe: Recipe
    prune: Prune = varied(by="variants.prune")


def main(params: Params, of: In, train: In, val: In, views: In, model: Out, metrics: Out) -> None:
    from isoflop.model_files import load_model

    data = read_split(train), read_views(views), read_split(val)
    prune(load_model(of), params.recipe, params.prune, *data, folder=model, metrics=metrics)


if __name__ == "__main__":
    run(main)
