"""Fit the scaling law to the study's runs; hold out the largest width, predict its loss and compare."""

from isoflop.runtime.params import RandomSeed, Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.analysis import Bootstraps, Widths, analyse
from isoflop.scaling.figures.image_size_plots import write_image_sizes
from isoflop.scaling.figures.pictures import write_pictures
from isoflop.scaling.image_sizes import add_sizes, studies_by_size
from isoflop.scaling.law_file import write_law
from isoflop.scaling.results import write_facts, write_points
from isoflop.scaling.tables.runs import discard_other_widths, read_study
from isoflop.scaling.without_law import lack, write_without_law


class Params(Section):
    bootstraps: Bootstraps = key("scaling.bootstraps")  # number of bootstrap replicates
    seed: RandomSeed = key("scaling.seed")  # of the bootstrap
    widths: Widths = key("sweep.widths")  # at least 3 different widths; the largest is held out


def main(params: Params, runs: In, law: Out, metrics: Out, points: Out, pictures: Out) -> None:
    study = read_study(runs, params.widths)
    discard_other_widths(runs, params.widths)
    if missing := lack(study, params.widths):
        print(missing)
        write_without_law(study, missing, law, metrics, points, pictures)
        return
    analysis = analyse(study, params.bootstraps, params.seed)
    write_law(analysis, law)
    write_facts(analysis, metrics)
    write_points(analysis, points)
    write_pictures(analysis, pictures)
    if studies := studies_by_size(runs, params.widths):
        add_sizes(studies, params.widths, params.bootstraps, params.seed, law=law, metrics=metrics)
        write_image_sizes(studies, pictures / "image_sizes.svg")


if __name__ == "__main__":
    run(main)
