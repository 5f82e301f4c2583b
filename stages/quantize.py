"""Quantize an ONNX classifier to INT8: calibrate on training images, measure the accuracy on validation images."""

from isoflop.compression.quantization import Quantize, quantize
from isoflop.data.arrays import read_split
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    quantize: Quantize


def main(params: Params, onnx: In, train: In, val: In, quantized: Out, calibration: Out, metrics: Out) -> None:
    data = read_split(train), read_split(val)
    quantize(onnx, *data, params.quantize, target=quantized, calibration=calibration, metrics=metrics)


if __name__ == "__main__":
    run(main)
