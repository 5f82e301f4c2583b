"""Compare every ONNX file: accuracy, size, agreement with the network it came from."""

import json

from isoflop.comparison import compare
from isoflop.params import Section, key
from isoflop.stage import In, Out, run
from isoflop.variants import Candidates, Name, onnx_files


class Params(Section):
    candidates: Candidates = key("variants.candidates")
    float16: list[Name] = key("variants.float16")


def main(params: Params, val: In, test: In, models: In, onnx: In, metrics: Out) -> None:
    files = onnx_files(onnx, params.candidates, params.float16)
    found = compare(val, test, [models / name for name in params.candidates], files)
    metrics.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
