"""Quantize an ONNX classifier to INT8, calibrated on training images."""

from isoflop.arrays import read_split
from isoflop.params import Section
from isoflop.quantization import Quantize, quantize
from isoflop.stage import In, Out, run


class Params(Section):
    quantize: Quantize


def main(params: Params, onnx: In, train: In, quantized: Out) -> None:
    quantize(onnx, read_split(train), params.quantize, quantized)


if __name__ == "__main__":
    run(main)
