"""Time every ONNX file in ONNX Runtime, and look at what it runs."""

import json

from isoflop.benchmarking import Benchmark, benchmark
from isoflop.params import Section
from isoflop.sessions import sessions
from isoflop.stage import In, Out, run


class Params(Section):
    benchmark: Benchmark


def main(params: Params, onnx: list[In], metrics: Out, costs: Out) -> None:
    metrics.write_text(json.dumps(benchmark(onnx, params.benchmark), indent=1) + "\n")
    costs.write_text(json.dumps(sessions(onnx, max(params.benchmark.batch_sizes)), indent=1) + "\n")


if __name__ == "__main__":
    run(main)
