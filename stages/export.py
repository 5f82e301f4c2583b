"""Export a trained network to ONNX and check it against torch."""

from isoflop.arrays import read_split
from isoflop.model_files import load_model
from isoflop.onnx_export import Export, check_parity, export
from isoflop.params import Section
from isoflop.stage import In, Out, run


class Params(Section):
    export: Export


def main(params: Params, model: In, val: In, onnx: Out) -> None:
    loaded = load_model(model)
    export(loaded, model.name, onnx, params.export.opset, params.export.dynamic_batch)
    check_parity(loaded, onnx, read_split(val).images, params.export.tolerance)


if __name__ == "__main__":
    run(main)
