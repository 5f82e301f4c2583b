"""Write down the loss that the law expects at train.width, without looking at the training."""

from pydantic import PositiveInt

from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.forecasting import forecast


class Params(Section):
    width: PositiveInt = key("train.width")
    epochs: PositiveInt = key("recipe.epochs")
    predict: list[PositiveInt] = key("scaling.predict")  # widths to forecast beside train.width


def main(params: Params, law: In, metrics: Out) -> None:
    expected = forecast(law, params.width, params.predict, params.epochs)
    write_json(metrics, expected)


if __name__ == "__main__":
    run(main)
