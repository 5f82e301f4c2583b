"""Export and quantize a network of each width of the study; measure bytes, latency and accuracy of both files."""

from isoflop.compression.quantization import Quantize
from isoflop.compression.study_formats import discard_other_networks, study_formats
from isoflop.data.arrays import read_split
from isoflop.inference.benchmarking import Benchmark
from isoflop.inference.onnx_export import Export
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run
from isoflop.scaling.analysis import Widths


class Params(Section):
    benchmark: Benchmark
    export: Export
    quantize: Quantize
    widths: Widths = key("sweep.widths")


def main(params: Params, networks: In, train: In, val: In, formats: Out) -> None:
    discard_other_networks(networks, params.widths)
    found = study_formats(
        networks, params.widths, read_split(train), read_split(val), params.export, params.quantize, params.benchmark
    )
    write_json(formats, found)


if __name__ == "__main__":
    run(main)
