"""Compare every ONNX file: accuracy, size, agreement with the network it came from, the images that it flips."""

import json

from isoflop.comparison import compare
from isoflop.flips import draw_flips, write_flips
from isoflop.flips import flips as find_flips
from isoflop.params import Section
from isoflop.stage import In, Out, run
from isoflop.variants import Variants, onnx_files


class Params(Section):
    variants: Variants


def main(params: Params, val: In, test: In, models: In, onnx: In, metrics: Out, flips: Out, flips_picture: Out) -> None:
    variants = params.variants
    files = onnx_files(onnx, variants.candidates, variants.float16)
    found, split, answers = compare(val, test, [models / name for name in variants.candidates], files)
    made_by = variants.made_by()
    blocks = {name: {"made_by": made_by[block["network"]]} | block for name, block in found.items()}
    metrics.write_text(json.dumps(blocks, indent=1) + "\n")
    flipped = find_flips(answers, split.labels)
    write_flips(flipped, split.meaning.classes, flips)
    draw_flips(flipped, split, flips_picture)


if __name__ == "__main__":
    run(main)
