"""Compare every ONNX file: accuracy, size, agreement with the network it came from, the images that it flips."""

from isoflop.compression.variants import Variants, onnx_files
from isoflop.evaluation.changed_predictions import draw_flips, write_flips
from isoflop.evaluation.changed_predictions import flips as find_flips
from isoflop.evaluation.comparison import compare
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    variants: Variants


def main(params: Params, val: In, test: In, models: In, onnx: In, metrics: Out, flips: Out, flips_picture: Out) -> None:
    variants = params.variants
    files = onnx_files(onnx, variants.candidates, variants.float16)
    found, split, answers = compare(val, test, [models / name for name in variants.candidates], files)
    made_by = variants.made_by()
    blocks = {name: {"made_by": made_by[block["network"]]} | block for name, block in found.items()}
    write_json(metrics, blocks)
    flipped = find_flips(answers, split.labels)
    write_flips(flipped, split.input_spec.classes, flips)
    draw_flips(flipped, split, flips_picture)


if __name__ == "__main__":
    run(main)
