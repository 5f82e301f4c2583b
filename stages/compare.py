"""Compare every ONNX file: accuracy, size, agreement with its network in torch, and changed predictions."""

from isoflop.compression.variants import Variants, onnx_files
from isoflop.data.image_names import read_names
from isoflop.evaluation import changed_predictions as changes
from isoflop.evaluation.comparison import compare
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    variants: Variants


def main(params: Params, val: In, test: In, names: In, models: In, onnx: In, metrics: Out, changed_predictions: Out,
         changed_predictions_picture: Out) -> None:  # fmt: skip
    variants = params.variants
    files = onnx_files(onnx, variants.candidates, variants.float16)
    blocks, split, predictions = compare(val, test, [models / name for name in variants.candidates], files)
    made_by = variants.made_by()
    write_json(metrics, {name: {"made_by": made_by[block["network"]]} | block for name, block in blocks.items()})
    changed = changes.changed_predictions(predictions, split.labels)
    named = read_names(names, "test", len(split))
    changes.write_changed_predictions(changed, split.input_spec.classes, named, changed_predictions)
    changes.draw_changed_predictions(changed, split, named, changed_predictions_picture)


if __name__ == "__main__":
    run(main)
