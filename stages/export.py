"""Export a trained network to ONNX and compare its logits with torch."""

from isoflop.data.arrays import read_split
from isoflop.inference.onnx_export import Export, check_parity, export
from isoflop.models.model_files import load_model
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    export: Export


def main(params: Params, model: In, val: In, onnx: Out) -> None:
    loaded = load_model(model)
    export(loaded, model.name, onnx, params.export.opset, params.export.dynamic_batch)
    check_parity(loaded, onnx, read_split(val).images, params.export.tolerance)


if __name__ == "__main__":
    run(main)
