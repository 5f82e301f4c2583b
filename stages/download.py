"""Bring the images that ``data`` names to one folder, verified."""

from isoflop.params import Section
from isoflop.sources import Data, download
from isoflop.stage import Out, run


class Params(Section):
    data: Data


def main(params: Params, raw: Out) -> None:
    download(params.data, raw)


if __name__ == "__main__":
    run(main, whole_params=True)
