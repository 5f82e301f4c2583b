"""Forecast loss, accuracy and shipped file at train.width from the study, without any result of the training."""

from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.analysis import Width
from isoflop.scaling.forecasting import forecast


class Params(Section):
    width: int = key("train.width", ge=1, le=65_536)
    fraction: float = key("train.fraction", gt=0, le=1)  # of the training images
    epochs: int = key("recipe.epochs", ge=1, le=100_000)
    predict: list[Width] = key("scaling.predict", max_length=100)  # more widths to forecast


def main(params: Params, law: In, formats: In, metrics: Out) -> None:
    write_json(metrics, forecast(law, formats, params.width, params.predict, params.epochs, params.fraction))


if __name__ == "__main__":
    run(main)
