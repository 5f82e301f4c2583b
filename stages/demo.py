"""Put the shipped model on a page that runs it in the browser; an empty folder where no demo is wanted."""

from isoflop.data.arrays import read_split
from isoflop.demo.folder import Demo, write_demo
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    demo: Demo


def main(params: Params, model: In, test: In, runtime: In, demo: Out) -> None:
    if params.demo.enabled:
        write_demo(model, read_split(test), runtime, params.demo.samples, demo)
    else:
        demo.mkdir(parents=True)


if __name__ == "__main__":
    run(main)
