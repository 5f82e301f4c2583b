"""Download or read the images that section ``data`` names, verify them and write them to one folder."""

from isoflop.download.sources import Data, download
from isoflop.runtime.params import Section
from isoflop.runtime.signature import Out
from isoflop.runtime.stage import run


class Params(Section):
    data: Data


def main(params: Params, raw: Out) -> None:
    download(params.data, raw)


if __name__ == "__main__":
    run(main, whole_params=True)
