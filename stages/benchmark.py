"""Time every ONNX file in ONNX Runtime, and look at what it runs."""

import json

from isoflop.benchmarking import Benchmark, benchmark
from isoflop.params import Section, key
from isoflop.sessions import sessions
from isoflop.stage import In, Out, run
from isoflop.variants import Candidates, Names, onnx_files


class Params(Section):
    benchmark: Benchmark
    candidates: Candidates = key("variants.candidates")
    float16: Names = key("variants.float16")


def main(params: Params, onnx: In, metrics: Out, costs: Out) -> None:
    files = onnx_files(onnx, params.candidates, params.float16)
    metrics.write_text(json.dumps(benchmark(files, params.benchmark), indent=1) + "\n")
    costs.write_text(json.dumps(sessions(files, max(params.benchmark.batch_sizes)), indent=1) + "\n")


if __name__ == "__main__":
    run(main)
