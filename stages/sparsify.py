"""Set weights of a model to zero and fine-tune the others."""

from isoflop.compression.method import make_variant
from isoflop.compression.sparsity import Sparsify, sparsify
from isoflop.data.arrays import read_training_data
from isoflop.models.model_files import load_model
from isoflop.runtime.params import Section, varied
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.training.recipe import Recipe


class Params(Section):
    recipe: Recipe
    sparsify: Sparsify = varied(by="variants.sparsify")


def main(params: Params, of: In, train: In, val: In, views: In, model: Out, metrics: Out) -> None:
    data = read_training_data(train, views, val)
    make_variant(sparsify, load_model(of), params.recipe, params.sparsify, data, folder=model, metrics=metrics)


if __name__ == "__main__":
    run(main)
