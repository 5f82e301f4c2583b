"""Fit the scaling law to the study's runs; hold out the largest width, predict its loss and compare."""

from isoflop.runtime.params import RandomSeed, Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.analysis import Bootstraps, Widths, analyse
from isoflop.scaling.compute_optimal_plots import draw_profiles, draw_surface
from isoflop.scaling.law_file import write_law
from isoflop.scaling.law_plots import draw_held_out, draw_law
from isoflop.scaling.results import write_facts, write_points
from isoflop.scaling.runs import discard_other_widths, read_study


class Params(Section):
    bootstraps: Bootstraps = key("scaling.bootstraps")  # number of bootstrap replicates
    seed: RandomSeed = key("scaling.seed")  # of the bootstrap
    widths: Widths = key("sweep.widths")  # at least 3 different widths; the largest is held out


def main(params: Params, runs: In, law: Out, metrics: Out, points: Out, picture: Out, held_out_picture: Out,
         isoflop_picture: Out, surface_picture: Out) -> None:  # fmt: skip
    study = read_study(runs, params.widths)
    discard_other_widths(runs, params.widths)
    analysis = analyse(study, params.bootstraps, params.seed)
    write_law(analysis, law)
    write_facts(analysis, metrics)
    write_points(analysis, points)
    draw_law(analysis, picture)
    draw_held_out(analysis, held_out_picture)
    draw_profiles(analysis, isoflop_picture)
    draw_surface(analysis, surface_picture)


if __name__ == "__main__":
    run(main)
