"""Export a trained network to TFLite and compare its logits with torch."""

from isoflop.data.arrays import read_split
from isoflop.inference.tflite import write_tflite
from isoflop.models.model_files import load_model
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    tolerance: float = key("export.tolerance", gt=0, lt=1)


def main(params: Params, model: In, val: In, tflite: Out, metrics: Out) -> None:
    write_tflite(load_model(model), read_split(val).images, params.tolerance, tflite, metrics)


if __name__ == "__main__":
    run(main)
