"""Compare the forecast with what the training of train.width came to."""

import json

from isoflop.scaling.forecasting import score
from isoflop.stage import In, Out, run


def main(forecast: In, train: In, metrics: Out) -> None:
    scored = score(json.loads(forecast.read_text()), json.loads(train.read_text()))
    metrics.write_text(json.dumps(scored, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
