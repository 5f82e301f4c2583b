"""Time every ONNX file in ONNX Runtime."""

import json

from isoflop.benchmarking import Benchmark, benchmark
from isoflop.params import Section
from isoflop.stage import In, Out, run


class Params(Section):
    benchmark: Benchmark


def main(params: Params, onnx: list[In], metrics: Out) -> None:
    metrics.write_text(json.dumps(benchmark(onnx, params.benchmark), indent=1) + "\n")


if __name__ == "__main__":
    run(main)
