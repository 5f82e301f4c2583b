"""Quantize an ONNX classifier to INT8, calibrated on training images and judged on validation images."""

from isoflop.arrays import read_split
from isoflop.params import Section
from isoflop.quantization import Quantize, quantize
from isoflop.stage import In, Out, run


class Params(Section):
    quantize: Quantize


def main(params: Params, onnx: In, train: In, val: In, quantized: Out, calibration: Out, metrics: Out) -> None:
    data = read_split(train), read_split(val)
    quantize(onnx, *data, params.quantize, target=quantized, calibration=calibration, metrics=metrics)


if __name__ == "__main__":
    run(main)
