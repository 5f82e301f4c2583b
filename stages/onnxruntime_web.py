"""Download ONNX Runtime Web for the demo; an empty folder if demo.enabled is false."""

from isoflop.demo.onnxruntime_web import vendor
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import Out
from isoflop.runtime.stage import run


class Params(Section):
    enabled: bool = key("demo.enabled")


def main(params: Params, runtime: Out) -> None:
    if params.enabled:
        vendor(runtime)
    else:
        runtime.mkdir(parents=True)


if __name__ == "__main__":
    run(main)
