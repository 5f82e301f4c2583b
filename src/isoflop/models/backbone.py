"""Family ``pretrained``: a backbone of the library transformers with a head of its own.

Only the types of ``TYPES`` are built, by the library's own classes: a configuration cannot name code to load.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from isoflop.models.architecture import Architecture, FromCheckpoint
from isoflop.runtime.errors import UserError

TYPES = (
    *("convnext", "convnextv2", "dinov2", "dinov2_with_registers", "dinov3_convnext", "dinov3_vit", "efficientnet"),
    *("mobilenet_v1", "mobilenet_v2", "regnet", "resnet", "swinv2", "vit"),
)
# about labels, files and devices; or what would load code (attention kernels) or other weights
_NOT_KEPT = {
    *("_attn_implementation", "_name_or_path", "architectures", "attn_implementation", "auto_map", "backbone"),
    *("backbone_config", "custom_pipelines", "dtype", "experts_implementation", "id2label", "label2id", "num_labels"),
    *("problem_type", "quantization_config", "torch_dtype", "transformers_version", "use_kernels", "use_timm_backbone"),
}


class Backbone(nn.Module):
    takes_any_size = False

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        if not isinstance(of, FromCheckpoint):
            raise UserError(
                "params.yaml: model.family: got pretrained with model.pretrained none, expected a checkpoint, as "
                "hub:OWNER/NAME@REVISION"
            )
        config = checked_config(of.config)
        self.network = _kind(config).from_config(config)
        features = _without_classifier(self.network)
        self.dropout = nn.Dropout(of.dropout)
        self.head = nn.Linear(features, of.num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        output = self.network(pixel_values=images_BCHW, return_dict=True)
        features_BC = (output.logits if hasattr(output, "logits") else output.pooler_output).flatten(1)
        logits_BK: Tensor = self.head(self.dropout(features_BC))
        return logits_BK


def _kind(config: Any) -> Any:
    """The library's class for ``config``; DINOv3 has none with a head."""
    auto = hub_library()
    classifiers = auto.AutoModelForImageClassification
    return classifiers if type(config) in classifiers._model_mapping else auto.AutoModel


def _without_classifier(network: Any) -> int:
    """Remove the last layer of ``network``, if it has one, and return the number of features."""
    last: Any = getattr(network, "classifier", None)
    if last is None:
        config = network.config
        return int(config.hidden_sizes[-1] if hasattr(config, "hidden_sizes") else config.hidden_size)
    if isinstance(last, nn.Sequential):
        linear: Any = last[-1]
        features = int(linear.in_features)
        last[-1] = nn.Identity()
        return features
    network.classifier = nn.Identity()
    return int(last.in_features)


def pretrained_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the weights of ``folder``, which has model.safetensors, by the names of a ``Backbone`` without its head.

    Raises:
        UserError: the file is damaged, or lacks weights of the architecture, or has them in other shapes.
    """
    from safetensors import SafetensorError

    checked = checked_config(config)
    try:
        network, found = _kind(checked).from_pretrained(
            folder,
            config=checked,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            ignore_mismatched_sizes=True,  # of the classifier, which is removed
            output_loading_info=True,
            dtype="float32",
        )
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise UserError(f"got weights that are not readable ({' '.join(str(error).split())[:200]})") from None
    others = {name if isinstance(name, str) else name[0] for name in found["mismatched_keys"]}
    for what, names in (("of other shapes", others), ("that lack some", set(found["missing_keys"]))):
        if wrong := sorted(name for name in names if not name.startswith("classifier")):
            raise UserError(
                f"got weights {what} ({wrong[0]}, {len(wrong)} in all), expected those of the {checked.model_type} "
                "that config.json describes"
            )
    _without_classifier(network)
    return {f"network.{name}": value.contiguous() for name, value in network.state_dict().items()}


def hub_library() -> Any:
    """Return the module transformers.

    Raises:
        UserError: the package is not installed.
    """
    try:
        import transformers
    except ImportError:
        raise UserError(
            "model.family: got pretrained, expected the package transformers; fix: pip install 'isoflop[pretrained]'"
        ) from None
    library: Any = transformers
    library.logging.set_verbosity_error()
    library.logging.disable_progress_bar()
    return library


def checked_config(content: Mapping[str, Any]) -> Any:
    """Return the library's configuration for the content of a config.json, reduced to the keys of its class.

    Raises:
        UserError: the type is none of ``TYPES``, or a value is not valid.
    """
    kind = content.get("model_type")
    if kind not in TYPES:
        raise UserError(f"got the architecture {kind!r}, expected one of {', '.join(TYPES)}")
    auto = hub_library().AutoConfig
    known = auto.for_model(kind).to_dict().keys() - _NOT_KEPT - {"model_type"}
    try:
        return auto.for_model(kind, **{key: content[key] for key in sorted(known & content.keys())})
    except (TypeError, ValueError) as error:
        raise UserError(f"got a configuration that is not one of a {kind} ({' '.join(str(error).split())})") from None


def kept_config(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a network is built from: the checked content of a config.json, as JSON types."""
    config = checked_config(content).to_dict()
    return {key: value for key, value in sorted(config.items()) if key not in _NOT_KEPT}
