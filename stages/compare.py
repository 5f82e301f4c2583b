"""Compare every ONNX file: accuracy, size, agreement with the network it came from."""

import json

from isoflop.comparison import compare
from isoflop.stage import In, Out, run


def main(val: In, test: In, models: list[In], onnx: list[In], metrics: Out) -> None:
    metrics.write_text(json.dumps(compare(val, test, models, onnx), indent=1) + "\n")


if __name__ == "__main__":
    run(main)
