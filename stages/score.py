"""Compare the forecast for train.width with the results of its training and with the files made from it."""

import json

from isoflop.runtime.files import write_json
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.forecasting import score


def main(forecast: In, train: In, variants: In, latency: In, choice: In, metrics: Out) -> None:
    expected, trained, compared, timed, chosen = (
        json.loads(file.read_text()) for file in (forecast, train, variants, latency, choice)
    )
    write_json(metrics, score(expected, trained, compared, timed, chosen["chosen"]))


if __name__ == "__main__":
    run(main)
