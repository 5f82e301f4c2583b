"""Networks that people deploy, with random weights, as ONNX files: ``python -m benchmarks.networks FOLDER [NAME ...]``.

Latency does not depend on the values of the weights. The files have a dynamic batch, float32 input [N, 3, 224, 224].
Batch norms get random statistics, because those of a new network would make them the identity.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers

_SIZE, _CLASSES, _OPSET = 224, 1000, 20


def _resnet18() -> Any:
    config = transformers.ResNetConfig(
        embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"
    )
    return transformers.ResNetForImageClassification, config


def _mobilenet_v2() -> Any:
    return transformers.MobileNetV2ForImageClassification, transformers.MobileNetV2Config(image_size=_SIZE)


def _convnext_atto() -> Any:
    config = transformers.ConvNextConfig(hidden_sizes=[40, 80, 160, 320], depths=[2, 2, 6, 2], image_size=_SIZE)
    return transformers.ConvNextForImageClassification, config


def _vit_tiny() -> Any:
    config = transformers.ViTConfig(
        hidden_size=192, num_hidden_layers=12, num_attention_heads=3, intermediate_size=768, image_size=_SIZE
    )
    return transformers.ViTForImageClassification, config


NETWORKS: dict[str, Callable[[], Any]] = {
    "resnet18": _resnet18,
    "mobilenet_v2": _mobilenet_v2,
    "convnext_atto": _convnext_atto,
    "vit_tiny": _vit_tiny,
}


class Logits(torch.nn.Module):
    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.net(pixels).logits
        return logits


def write(name: str, file: Path) -> None:
    """Export the network ``name`` of ``NETWORKS`` to ``file``."""
    torch.manual_seed(0)
    kind, config = NETWORKS[name]()
    config.num_labels = _CLASSES
    net = kind(config).eval()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for statistic, low, high in ((module.running_mean, -0.2, 0.2), (module.running_var, 0.5, 1.5)):
                assert statistic is not None
                torch.nn.init.uniform_(statistic, low, high)
    torch.onnx.export(
        Logits(net).eval(),
        (torch.zeros(2, 3, _SIZE, _SIZE),),
        file,
        input_names=["pixels"],
        output_names=["logits"],
        opset_version=_OPSET,
        dynamic_shapes={"pixels": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", choices=[[], *NETWORKS], metavar="NAME")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names or NETWORKS:
        write(name, options.folder / f"{name}.onnx")


if __name__ == "__main__":
    main()
