"""Fit the scaling law to the study's runs; hold out the widest width, predict it and compare."""

from isoflop.params import Section, key
from isoflop.scaling.analysis import Scaling, Widths, analyse
from isoflop.scaling.results import write_facts, write_law, write_points
from isoflop.scaling.runs import discard_other_widths, read_study
from isoflop.scaling_figures import draw_held_out, draw_law
from isoflop.stage import In, Out, run


class Params(Section):
    scaling: Scaling
    widths: Widths = key("sweep.widths")


def main(params: Params, runs: In, law: Out, metrics: Out, points: Out, picture: Out, held_out_picture: Out) -> None:
    study = read_study(runs, params.widths)
    discard_other_widths(runs, params.widths)
    analysis = analyse(study, params.scaling.bootstraps, params.scaling.seed)
    write_law(analysis, law)
    write_facts(analysis, metrics)
    write_points(analysis, points)
    draw_law(analysis, picture)
    draw_held_out(analysis, held_out_picture)


if __name__ == "__main__":
    run(main)
