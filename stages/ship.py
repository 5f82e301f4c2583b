"""Choose the variant to ship and write the release files."""

from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.shipping.choosing import Ship, write_headline, write_tradeoff
from isoflop.shipping.choosing import ship as write_ship


class Params(Section):
    ship: Ship
    source: str = key("data.source", max_length=100)  # for the model card


def main(
    params: Params,
    variants: In,
    latency: In,
    data: In,
    onnx: In,
    model: Out,
    choice: Out,
    card: Out,
    sums: Out,
    tradeoff: Out,
    headline: Out,
) -> None:
    files = {"model": model, "choice": choice, "card": card, "sums": sums}
    candidates = write_ship(variants, latency, data, onnx, params.ship, params.source, **files)
    write_tradeoff(candidates, tradeoff)
    write_headline(candidates[0], headline)


if __name__ == "__main__":
    run(main)
