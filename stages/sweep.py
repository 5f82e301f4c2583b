"""Train one width of the scaling study on every fraction of the data with every seed."""

from isoflop.architecture import ModelParams
from isoflop.arrays import read_split, read_views
from isoflop.params import Section, key
from isoflop.recipe import Recipe
from isoflop.stage import In, Out, run
from isoflop.sweep import SweepRuns, parsed_width, sweep_width


class Params(Section):
    model: ModelParams
    recipe: Recipe
    runs: SweepRuns = key("sweep.runs")


def main(params: Params, width: str, train: In, val: In, views: In, runs: Out) -> None:
    size = parsed_width(width)
    data = read_split(train), read_views(views), read_split(val)
    sweep_width(params.model, params.recipe, params.runs, size, *data, runs)


if __name__ == "__main__":
    run(main, whole_params=True)
