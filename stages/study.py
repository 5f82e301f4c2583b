"""Write the page of the scaling study: the report with the law, its tests and its predictions."""

from isoflop.report.page import write_report
from isoflop.report.shown_params import Params
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


def main(params: Params, metrics: In, plots: In, choice: In, dropped: In, scaling: In, code: In, report: Out) -> None:
    del code  # a DVC dependency: the page shows the hash of all code
    write_report(metrics, plots, choice, dropped, params.model_dump(), report, scaling)


if __name__ == "__main__":
    run(main)
