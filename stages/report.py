"""Write the report: one self-contained HTML page of all results except the scaling study."""

from isoflop.report.page import write_report
from isoflop.report.shown_params import Params
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


def main(params: Params, metrics: In, plots: In, choice: In, dropped: In, code: In, report: Out) -> None:
    del code  # a DVC dependency: the page shows the hash of all code
    write_report(metrics, plots, choice, dropped, params.model_dump(), report)


if __name__ == "__main__":
    run(main)
