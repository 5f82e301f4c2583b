"""Choose the variant to ship and write the folder that goes out."""

from isoflop.params import Section
from isoflop.shipping import Ship, write_tradeoff
from isoflop.shipping import ship as write_ship
from isoflop.stage import In, Out, run


class Params(Section):
    ship: Ship


def main(params: Params, variants: In, latency: In, data: In, onnx: In, ship: Out, tradeoff: Out) -> None:
    candidates = write_ship(variants, latency, data, onnx, params.ship, ship)
    write_tradeoff(candidates, tradeoff)


if __name__ == "__main__":
    run(main)
