"""Export a trained network to an ONNX file that takes raw pixels, and check the file against the network."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from isoflop.data.arrays import Images
from isoflop.inference.onnx_files import INPUT, LOGITS, PROBABILITIES, PRODUCER, Floats, open_classifier
from isoflop.models.model_files import Model, digest
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section

if TYPE_CHECKING:
    from torch import nn

_MOST_PARITY_IMAGES = 1024
_BATCH = 256  # images


class Export(Section):
    """Section ``export``. The stage stops if the logits of ONNX Runtime differ from torch's by more than `tolerance`.
    Set `dynamic_batch` to false for device compilers that require a batch of 1."""

    opset: int = Field(ge=18, le=23)  # 18: the exporter's default; 23: the newest that onnxruntime 1.23 runs
    dynamic_batch: bool  # true: any batch size; false: a batch of 1
    tolerance: float = Field(gt=0, lt=1)  # largest logit difference to torch, as a share of the largest logit


def export(model: Model, variant: str, file: Path, opset: int, dynamic_batch: bool = True) -> None:
    """Write ``model`` as ONNX, with normalization and softmax in the graph and batch norms folded.

    The same model gives the same bytes in any folder: the source paths that the exporter adds to nodes are removed.

    Raises:
        UserError: the network cannot be converted to ``opset``.
    """
    import onnx
    import onnx_ir
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass

    graph = _traced(model, opset, dynamic_batch)
    ClearMetadataAndDocStringPass()(graph)
    graph.producer_name, graph.producer_version = PRODUCER, None
    graph.metadata_props.update(
        producer=PRODUCER,
        variant=variant,
        classes=json.dumps(model.input_spec.classes),
        resize=model.input_spec.resize,
        architecture=json.dumps(asdict(model.architecture)),
        weights=digest(model.net),
    )
    if model.input_spec.sample_range:
        graph.metadata_props["sample_range"] = json.dumps(model.input_spec.sample_range)
    if model.pretrained:
        graph.metadata_props["pretrained"] = json.dumps(model.pretrained)
    if model.privacy:
        graph.metadata_props["privacy"] = json.dumps(model.privacy)
    proto = onnx_ir.to_proto(graph)
    _for_older_runtimes(proto)
    onnx.checker.check_model(proto, full_check=True)
    file.write_bytes(proto.SerializeToString(deterministic=True))


def check_parity(model: Model, file: Path, images_NHWC: Images, tolerance: float) -> None:
    """Compare the logits of ``file`` in ONNX Runtime to those of ``model`` in torch, on at most 1,024 images.

    Raises:
        UserError: no images, or the largest difference exceeds ``tolerance`` times the largest logit.
    """
    if not len(images_NHWC):
        raise UserError("export: got no validation images, expected some to compare ONNX Runtime with torch")
    sample_NHWC = images_NHWC[:: -(-len(images_NHWC) // _MOST_PARITY_IMAGES)]
    expected_NK = torch_logits(model, sample_NHWC)
    actual_NK = open_classifier(file).logits(sample_NHWC)
    difference = float(np.abs(actual_NK - expected_NK).max() / max(np.abs(expected_NK).max(), 1e-6))
    changed = int((actual_NK.argmax(1) != expected_NK.argmax(1)).sum())
    if not difference <= tolerance:  # written so that NaN fails, too
        raise UserError(
            f"export.tolerance: got logits from ONNX Runtime that differ from torch's by {difference:.2g} of the "
            f"largest logit ({changed} of {len(sample_NHWC)} predictions changed), expected at most {tolerance}"
        )


def torch_logits(model: Model, images_NHWC: Images) -> Floats:
    """Compute the network's logits float32 [N, K] for images uint8 [N, H, W, C], in batches on the CPU."""
    import torch

    whole = classifier(model)
    logits = [np.zeros((0, len(model.input_spec.classes)), np.float32)]
    with torch.inference_mode():
        for start in range(0, len(images_NHWC), _BATCH):
            batch_BHWC = torch.from_numpy(np.array(images_NHWC[start : start + _BATCH]))
            logits.append(whole(batch_BHWC)[0].numpy())
    return np.concatenate(logits)


def classifier(model: Model) -> nn.Module:
    """Wrap the network as it is exported: raw pixels in, logits and probabilities out."""
    import torch
    from torch import Tensor, nn

    from isoflop.data.normalization import normalize

    class Classifier(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = _pooling_last(model.net)

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            logits_BK = self.net(normalize(images, model.input_spec))
            return logits_BK, torch.softmax(logits_BK, 1)

    return Classifier().eval()


def _for_older_runtimes(proto: Any) -> None:
    """Set the least IR version that the opset needs, and import only domains that are used.

    Runtimes that know the opset refuse files of a later IR version.
    """
    from onnx import helper

    used = {node.domain for node in proto.graph.node} | {
        node.domain for function in proto.functions for node in function.node
    }
    kept = [item for item in proto.opset_import if item.domain in used | {""}]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    proto.ir_version = helper.find_min_ir_version_for(kept)


def _pooling_last(net: nn.Module) -> nn.Module:
    """Return a copy in which norm (and ReLU) directly follow the convolution and max pooling comes last.

    Training pools before the norm, which is cheaper. In ONNX, a norm is folded into a convolution only if it directly
    follows; otherwise it runs separately, and in float in an INT8 graph. Max pooling commutes with increasing
    functions, so the outputs are the same for ReLU and for norms without a negative scale; others are left in place.
    """
    from copy import deepcopy

    from torch import nn

    def increases(layer: nn.Module) -> bool:
        return isinstance(layer, nn.ReLU) or (isinstance(layer, nn.BatchNorm2d) and bool((layer.weight >= 0).all()))

    net = deepcopy(net)
    for block in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        for index in range(len(block) - 1):
            pool, after = block[index], block[index + 1]
            if isinstance(pool, nn.MaxPool2d) and increases(after):
                block[index], block[index + 1] = after, pool
    return net


def _traced(model: Model, opset: int, dynamic_batch: bool) -> Any:
    """Return the exporter's optimized graph (onnx_ir.Model).

    Raises:
        UserError: the network cannot be converted to ``opset``.
    """
    import torch

    size, channels = model.architecture.image_size, model.architecture.channels
    count = 2 if dynamic_batch else 1  # 2: torch.export treats a batch of 1 as a constant
    example = torch.zeros(count, size, size, channels, dtype=torch.uint8)
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)  # it warns that torchvision is not installed; nothing here needs it
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecation warnings inside torch's exporter
            program = torch.onnx.export(
                classifier(model),
                (example,),
                dynamo=True,
                external_data=False,
                dynamic_shapes=({0: torch.export.Dim("batch")},) if dynamic_batch else None,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[LOGITS, PROBABILITIES],
                verbose=False,
            )
    finally:
        registration.setLevel(level)
    assert program is not None
    exported = program.model.opset_imports[""]
    if exported != opset:  # the exporter keeps its default version if a conversion fails
        raise UserError(f"export.opset: got {opset}, to which this network cannot be converted, expected {exported}")
    return program.model
