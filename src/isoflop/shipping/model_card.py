"""Write the model card: what the shipped model is, its measurements, and how to run it.

The card starts with Hugging Face metadata (with Papers with Code's model-index), so a copy of ``ship/`` with the card
as README.md is a model repository on the hub. Facts that nobody provided, such as the license, are left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from isoflop.inference.onnx_files import open_classifier

_TASK = "image-classification"
_DATA_SETS = {  # data.source → name of the data set
    "digits": "Optical Recognition of Handwritten Digits (the copy in scikit-learn)",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "images": "a folder of images",
}

_SQUARES = {  # resize → Python code that makes ``picture`` a square, as data.images.fit_to_square does
    "crop": """\
side = min(picture.size)
left, top = (picture.width - side) / 2, (picture.height - side) / 2
picture = picture.resize(({size}, {size}), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))""",
    "pad": """\
scale = {size} / max(picture.size)
width, height = (max(1, round(scale * side)) for side in picture.size)
inner = np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC)).reshape(height, width, -1)
border = np.concatenate([inner[0], inner[-1], inner[:, 0], inner[:, -1]])
square = np.tile(np.median(border, axis=0).astype(np.uint8), ({size}, {size}, 1))
left, top = ({size} - width) // 2, ({size} - height) // 2
square[top : top + height, left : left + width] = inner
picture = square""",
    "stretch": "picture = picture.resize(({size}, {size}), Image.Resampling.BICUBIC)",
}


def model_card(
    name: str,
    why: str,
    variants: dict[str, Any],
    latency: dict[str, Any],
    data: dict[str, Any],
    source: str,
    file: Path,
) -> str:
    """Return the card (YAML front matter, then Markdown) of the variant ``name``.

    Args:
        why: the reason of the choice.
        variants, latency, data: contents of variants.json, latency.json and data.json.
        source: value of ``data.source``.
        file: the shipped ONNX file.
    """
    metadata = open_classifier(file).session.get_modelmeta().custom_metadata_map
    sections = [
        _metadata(name, variants[name], data, source),
        f"# {name}\n\nImage classifier with {_plural(data['num_classes'], 'class', 'classes')} for "
        f"{'grayscale' if data['channels'] == 1 else 'RGB'} images of {data['image_size']} x {data['image_size']} "
        f"pixels.\n\nSelection: {why}.\n",
        _data(data),
        pretrained_section(metadata.get("pretrained")),
        _privacy(metadata.get("privacy")),
        _results(name, variants, latency),
        _usage(file, data),
    ]
    return "\n".join(section for section in sections if section)


def _metadata(name: str, facts: dict[str, Any], data: dict[str, Any], source: str) -> str:
    split = {"type": source, "name": _DATA_SETS.get(source, source), "split": "test"}
    images = data["images"]["test"]
    metrics = [
        {"type": "accuracy", "name": f"Top-1 accuracy on {images} test images", "value": facts["accuracy"]},
        {"type": "balanced_accuracy", "name": "Mean recall of the classes", "value": facts["balanced_accuracy"]},
        {"type": "f1", "name": "Macro F1", "value": facts["macro_f1"]},
        {"type": "nll", "name": "Mean negative log-likelihood (nats)", "value": facts["nll"]},
    ]
    task = {"type": _TASK, "name": "Image classification"}
    content = {
        "library_name": "onnx",
        "pipeline_tag": _TASK,
        "tags": [_TASK, "onnx", "onnxruntime", "isoflop"],
        "model-index": [{"name": name, "results": [{"task": task, "dataset": split, "metrics": metrics}]}],
    }
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n"


def _data(data: dict[str, Any]) -> str:
    images = data["images"]
    classes = ", ".join(_escaped(name) for name in data["classes"])
    return (
        f"## Data\n\n- Classes, in the order of the outputs: {classes}\n"
        f"- Images: {images['train']:,} training, {images['val']:,} validation, {images['test']:,} test; "
        f"cleaning dropped {data['dropped']['total']:,} of {images['source']:,}\n"
        f"- Images of another size: made square by `{data['resize']}`, then resized\n"
        + (
            f"- 16-bit and float samples: {scale[0]:g} becomes 0 and {scale[1]:g} becomes 255, clipped outside\n"
            if (scale := data.get("sample_range"))
            else ""
        )
    )


def pretrained_section(metadata: str | None) -> str:
    """Return the section on the first weights, whose license may set conditions for the fine-tuned model."""
    if not metadata:
        return ""
    facts = json.loads(metadata)
    return (
        f"## Pretrained weights\n\nFine-tuned from `{_escaped(facts['source'])}`.\n\n"
        f"- Revision: {_escaped(facts.get('revision', 'none stated'))}\n"
        f"- License: {_escaped(facts.get('license', 'none stated'))}\n"
        f"- SHA-256 of the weights: {facts['sha256']}\n"
    )


def _privacy(metadata: str | None) -> str:
    if not metadata:
        return ""
    spent = json.loads(metadata)
    return (
        f"## Privacy\n\nTrained with DP-SGD: ({spent['epsilon']:g}, {spent['delta']:g})-differential privacy "
        f"with respect to adding or removing one training image ({spent['steps']:,} steps, noise multiplier "
        f"{spent['noise_multiplier']:.3f}, clip norm {spent['clip_norm']:g}, sample rate {spent['sample_rate']:.4g}). "
        "The guarantee does not cover cleaning, normalization, the choice of the variant, the INT8 calibration ranges, "
        "and what the report shows of the training images.\n"
    )


def _results(name: str, variants: dict[str, Any], latency: dict[str, Any]) -> str:
    facts, conditions = variants[name], latency["conditions"]
    base = next(iter(variants))
    change = facts.get("against_base")
    against = (
        f"- Paired comparison with {base} on the test split: {100 * change['difference']:+.2f} pp (95 % CI "
        f"{100 * change['low']:+.2f} to {100 * change['high']:+.2f} pp); {change['lost']:,} predictions changed from "
        f"correct to wrong, {change['gained']:,} from wrong to correct\n"
        if change
        else ""
    )
    rows = [
        f"| {cell.removeprefix('batch').replace('_threads', ' | ')} | {times['p50_ms']:.4g} | "
        f"{times['p95_ms']:.4g} | {times['images_per_s']:,.0f} | {times['speedup']:.2f} "
        f"({times['speedup_low']:.2f} to {times['speedup_high']:.2f}) |"
        for cell, times in latency[name].items()
    ]
    return (
        f"## Results\n\n- Top-1 accuracy on the test split: {100 * facts['accuracy']:.2f} % "
        f"({base}: {100 * variants[base]['accuracy']:.2f} %); NLL {facts['nll']:.4f}\n{against}"
        f"- By class: balanced accuracy {100 * facts['balanced_accuracy']:.2f} %, macro F1 "
        f"{100 * facts['macro_f1']:.2f} %; lowest recall {100 * facts['lowest_recall']:.2f} % "
        f"({_escaped(facts['lowest_recall_class'])})\n"
        f"- {facts['parameters']:,} parameters, {facts['macs']:,} MACs per image, "
        f"{facts['bytes']:,} bytes ({facts['gzip_bytes']:,} gzipped)\n"
        f"- ONNX Runtime and torch predict the same class for {100 * facts['agreement']:.2f} % of the test images\n\n"
        f"| batch size | threads | p50 latency, ms | p95 latency, ms | images/s | speed-up over {base} (95 % CI) |\n"
        "|---:|---:|---:|---:|---:|---:|\n"
        + "\n".join(rows)
        + f"\n\nLatency per batch, measured with ONNX Runtime {conditions['onnxruntime']} on {conditions['cpu']}, "
        f"{conditions['cores']} cores ({conditions['flags']}), load average {conditions['load_average']}.\n"
    )


def _usage(file: Path, data: dict[str, Any]) -> str:
    classifier = open_classifier(file)
    size, channels, batch = classifier.image_size, classifier.channels, classifier.batch or "batch"
    mode = "L" if channels == 1 else "RGB"
    return f"""## Use

- Input `images`: uint8 [{batch}, {size}, {size}, {channels}], pixels from 0 to 255; the graph normalizes them
- Outputs `logits` and `probabilities`: float32 [{batch}, {data["num_classes"]}]
- Metadata: `classes` (JSON), `resize`, `variant`, `architecture` (JSON)

```python
import json
import numpy as np
import onnxruntime
from PIL import Image, ImageOps
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
picture = ImageOps.exif_transpose(Image.open("picture.png")).convert("{mode}")  # upright
{_SQUARES[classifier.resize].format(size=size)}
pixels = np.asarray(picture, np.uint8).reshape(1, {size}, {size}, {channels})
(probabilities,) = session.run(["probabilities"], {{"images": pixels}})
print(classes[probabilities[0].argmax()], probabilities[0].max())
```

The snippet prepares 8-bit pictures without transparency exactly as the training did; `isoflop predict model.onnx
picture.png` does so for all. `sha256sum -c SHA256SUMS` verifies the files.
"""


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _escaped(name: str) -> str:
    """Escape a class name for Markdown; it is a folder name and may hold any character."""
    shown = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in name)
    return " ".join(shown.split())
