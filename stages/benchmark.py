"""Measure latency, load time and memory of every ONNX file in ONNX Runtime."""

from isoflop.compression.variants import Candidates, Names, onnx_files
from isoflop.inference.benchmarking import Benchmark, benchmark
from isoflop.inference.sessions import sessions
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    benchmark: Benchmark
    candidates: Candidates = key("variants.candidates")
    float16: Names = key("variants.float16")


def main(params: Params, onnx: In, metrics: Out, costs: Out) -> None:
    files = onnx_files(onnx, params.candidates, params.float16)
    write_json(metrics, benchmark(files, params.benchmark))
    write_json(costs, sessions(files, max(params.benchmark.batch_sizes)))


if __name__ == "__main__":
    run(main)
