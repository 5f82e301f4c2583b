"""Compare the forecast with what the training of train.width came to."""

import json

from isoflop.runtime.files import write_json
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.forecasting import score


def main(forecast: In, train: In, metrics: Out) -> None:
    scored = score(json.loads(forecast.read_text()), json.loads(train.read_text()))
    write_json(metrics, scored)


if __name__ == "__main__":
    run(main)
