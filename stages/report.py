"""Put everything that was measured on one self-contained page."""

from isoflop.report.page import write_report
from isoflop.stage import In, Out, run


def main(metrics: In, plots: In, choice: In, dropped: In, report: Out) -> None:
    write_report(metrics, plots, choice, dropped, report)


if __name__ == "__main__":
    run(main)
