"""Convert an ONNX classifier to FP16."""

from isoflop.compression.float16 import to_float16
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


def main(onnx: In, float16: Out) -> None:
    to_float16(onnx, float16)


if __name__ == "__main__":
    run(main)
