"""Put everything that was measured on one self-contained page."""

from typing import Any

from isoflop.params import Section
from isoflop.report.page import write_report
from isoflop.stage import In, Out, run

_Shown = dict[str, Any]  # as it stands: the stages that use it have validated it


class Params(Section):
    data: _Shown
    prepare: _Shown
    augment: _Shown
    model: _Shown
    recipe: _Shown
    train: _Shown
    evaluate: _Shown
    sweep: _Shown
    scaling: _Shown
    distill: _Shown
    prune: _Shown
    sparsify: _Shown
    qat: _Shown
    variants: _Shown
    export: _Shown
    quantize: _Shown
    benchmark: _Shown
    ship: _Shown


def main(params: Params, metrics: In, plots: In, ship: In, dropped: In, code: list[In], report: Out) -> None:
    write_report(metrics, plots, ship / "choice.json", dropped, code, params.model_dump(), report)


if __name__ == "__main__":
    run(main)
