"""Write down the loss that the law expects at train.width, without looking at the training."""

import json

from pydantic import PositiveInt

from isoflop.params import Section, key
from isoflop.scaling.forecasting import forecast
from isoflop.stage import In, Out, run


class Params(Section):
    width: PositiveInt = key("train.width")
    epochs: PositiveInt = key("recipe.epochs")
    predict: list[PositiveInt] = key("scaling.predict")  # widths to forecast beside train.width


def main(params: Params, law: In, metrics: Out) -> None:
    expected = forecast(law, params.width, params.predict, params.epochs)
    metrics.write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
