"""Put the shipped model on a page that runs it in the browser; an empty folder where no demo is wanted."""

from isoflop.arrays import read_split
from isoflop.demo.folder import Demo, write_demo
from isoflop.params import Section
from isoflop.stage import In, Out, run


class Params(Section):
    demo: Demo


def main(params: Params, model: In, test: In, runtime: In, demo: Out) -> None:
    if params.demo.enabled:
        write_demo(model, read_split(test), runtime, params.demo.samples, demo)
    else:
        demo.mkdir(parents=True)


if __name__ == "__main__":
    run(main)
