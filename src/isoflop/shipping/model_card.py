"""The card that goes out with a shipped model: what it is, what it was measured to do, and how to run it.

It begins with metadata by the conventions of Hugging Face's hub (model-index is Papers with Code's), so that a copy of
``ship/`` with the card as README.md is a model repository. What nobody stated, such as a license, is left out.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from isoflop.inference.onnx_files import open_classifier

_TASK = "image-classification"
_DATA_SETS = {  # data.source → its name; the user's own images have none
    "digits": "Optical Recognition of Handwritten Digits, as scikit-learn has it",
    "mnist": "MNIST",
    "fashion_mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "images": "a folder of images",
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
    """Markdown with YAML before it for the variant ``name``, shipped as ``file``.

    Args:
        variants, latency, data: what variants.json, latency.json and data.json hold.
        source: where the images come from, as ``data.source`` has it.
    """
    sections = [
        _metadata(name, variants[name], data, source),
        f"# {name}\n\nAn image classifier: {_plural(data['num_classes'], 'class', 'classes')}, "
        f"images of {data['image_size']} x {data['image_size']} pixels and "
        f"{_plural(data['channels'], 'channel', 'channels')}.\n\nWhy this variant: {why}.\n",
        _data(data),
        _privacy(file),
        _measured(name, variants, latency),
        _usage(file, data),
    ]
    return "\n".join(sections)


def _metadata(name: str, facts: dict[str, Any], data: dict[str, Any], source: str) -> str:
    split = {"type": source, "name": _DATA_SETS.get(source, source), "split": "test"}
    metrics = [
        {"type": "accuracy", "name": f"Accuracy on {data['images']['test']} test images", "value": facts["accuracy"]},
        {"type": "nll", "name": "Mean negative log-likelihood, in nats", "value": facts["nll"]},
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
        f"- Images: {images['train']:,} to train, {images['val']:,} to validate, {images['test']:,} to test; "
        f"{data['dropped']['total']:,} of {images['source']:,} were dropped in cleaning\n"
        f"- A picture of another size was made square by `{data['resize']}` and resized\n"
    )


def _privacy(file: Path) -> str:
    said = open_classifier(file).session.get_modelmeta().custom_metadata_map.get("privacy")
    if not said:
        return ""
    spent = json.loads(said)
    return (
        f"## Privacy\n\nTrained by DP-SGD: ({spent['epsilon']:g}, {spent['delta']:g})-differential privacy for a "
        f"training image added or removed ({spent['steps']:,} steps, noise multiplier "
        f"{spent['noise_multiplier']:.3f}, clip norm {spent['clip_norm']:g}, sample rate {spent['sample_rate']:.4g}). "
        "Cleaning, normalization, the choice among variants, the ranges of 8 bits and what the report says of the "
        "training images are outside of it.\n"
    )


def _measured(name: str, variants: dict[str, Any], latency: dict[str, Any]) -> str:
    facts, conditions = variants[name], latency["conditions"]
    base = next(iter(variants))
    change = facts.get("against_base")
    against = (
        f"- Against {base}, image by image: {100 * change['difference']:+.2f} points (95 % interval "
        f"{100 * change['low']:+.2f} to {100 * change['high']:+.2f}; {change['lost']:,} right became wrong, "
        f"{change['gained']:,} wrong became right)\n"
        if change
        else ""
    )
    rows = [
        f"| {cell.replace('batch', 'batch ').replace('_threads', ', threads ')} | {times['p50_ms']:.4g} | "
        f"{times['p95_ms']:.4g} | {times['images_per_s']:,.0f} | {times['speedup']:.2f} "
        f"({times['speedup_low']:.2f} to {times['speedup_high']:.2f}) |"
        for cell, times in latency[name].items()
    ]
    return (
        f"## Measured\n\n- Accuracy on the test split: {100 * facts['accuracy']:.2f} % "
        f"({base}: {100 * variants[base]['accuracy']:.2f} %); NLL {facts['nll']:.4f}\n{against}"
        f"- {facts['parameters']:,} parameters, {facts['macs']:,} multiply-accumulates an image, "
        f"{facts['bytes']:,} bytes ({facts['gzip_bytes']:,} gzipped)\n"
        f"- Same prediction as the network in torch on {100 * facts['agreement']:.2f} % of the test images\n\n"
        f"| | median ms | 95 % below, ms | images/s | times as fast as {base} (95 % interval) |\n"
        "|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\nONNX Runtime {conditions['onnxruntime']} on {conditions['cpu']}, {conditions['cores']} cores "
        f"({conditions['flags']}), load average {conditions['load_average']}.\n"
    )


def _usage(file: Path, data: dict[str, Any]) -> str:
    classifier = open_classifier(file)
    size, channels, batch = classifier.image_size, classifier.channels, classifier.batch or "batch"
    mode = "L" if channels == 1 else "RGB"
    reshaped = f".reshape(1, {size}, {size}, {channels})"
    return f"""## Use

- Input `images`: uint8 [{batch}, {size}, {size}, {channels}], raw pixels from 0 to 255; normalization is in the graph
- Outputs `logits` and `probabilities`: float32 [{batch}, {data["num_classes"]}]
- The metadata has `classes` (JSON), `resize`, `variant`, `architecture` (JSON)

```python
import json
import numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession("model.onnx")
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
picture = Image.open("picture.png").convert("{mode}").resize(({size}, {size}))
(probabilities,) = session.run(["probabilities"], {{"images": np.asarray(picture, np.uint8){reshaped}}})
print(classes[probabilities[0].argmax()])
```

The snippet stretches the picture; `isoflop predict model.onnx picture.png` squares it exactly as in training.
`sha256sum -c SHA256SUMS` checks the files.
"""


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _escaped(name: str) -> str:
    """A class name as Markdown shows it: folders can be called anything."""
    shown = "".join(f"\\{letter}" if letter in "\\`*_[]<>|#!" else letter for letter in name)
    return " ".join(shown.split())
