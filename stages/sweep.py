"""Train the runs of the scaling study at one width: every data fraction, number of epochs, budget and seed."""

from isoflop.data.arrays import read_training_data
from isoflop.models.architecture import ModelParams
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.training.recipe import Recipe
from isoflop.training.sweep import SweepRuns, parsed_width, sweep_width
from isoflop.training.sweep_sizes import add_image_sizes


class Params(Section):
    model: ModelParams
    recipe: Recipe
    runs: SweepRuns = key("sweep.runs")


def main(params: Params, width: str, train: In, val: In, views: In, runs: Out, network: Out) -> None:
    size = parsed_width(width)
    data = read_training_data(train, views, val)
    sweep_width(params.model, params.recipe, params.runs, size, data, file=runs, network=network)
    if params.runs.image_sizes:
        add_image_sizes(params.model, params.recipe, params.runs, size, data, runs)


if __name__ == "__main__":
    run(main, whole_params=True)
