"""Forecast the loss at train.width from the law, without any result of the training."""

from pydantic import PositiveInt

from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.forecasting import forecast


class Params(Section):
    width: PositiveInt = key("train.width")
    epochs: PositiveInt = key("recipe.epochs")
    predict: list[PositiveInt] = key("scaling.predict")  # more widths to forecast


def main(params: Params, law: In, metrics: Out) -> None:
    write_json(metrics, forecast(law, params.width, params.predict, params.epochs))


if __name__ == "__main__":
    run(main)
