"""Compare the forecast for train.width with the results of its training."""

import json

from isoflop.runtime.files import write_json
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.forecasting import score


def main(forecast: In, train: In, metrics: Out) -> None:
    write_json(metrics, score(json.loads(forecast.read_text()), json.loads(train.read_text())))


if __name__ == "__main__":
    run(main)
