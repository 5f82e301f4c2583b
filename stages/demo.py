"""Write the browser demo of the shipped model; an empty folder if demo.enabled is false."""

from isoflop.data.arrays import read_split
from isoflop.demo.folder import Demo, write_demo
from isoflop.demo.onnxruntime_web import check_runtime
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    demo: Demo


def main(params: Params, model: In, test: In, runtime: In, demo: Out) -> None:
    if params.demo.enabled:
        check_runtime(runtime)
        write_demo(model, read_split(test), runtime, params.demo.samples, demo)
    else:
        demo.mkdir(parents=True)


if __name__ == "__main__":
    run(main)
