"""A trained network on disk: weights as safetensors (never a pickle), and the architecture as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.data.arrays import InputSpec
from isoflop.models.architecture import Architecture, FromCheckpoint
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

_WEIGHTS, _DESCRIPTION = "weights.safetensors", "model.json"


@dataclass(frozen=True)
class Model:
    """A network with its architecture and its input spec."""

    net: nn.Module
    architecture: Architecture
    input_spec: InputSpec
    privacy: dict[str, float] | None = None  # ``Mechanism.facts`` of its training; None: trained without
    pretrained: dict[str, str] | None = None  # ``Checkpoint.provenance`` of its first weights; None: random ones


def save_model(model: Model, folder: Path) -> None:
    """Write ``model`` to the new ``folder``; the same model gives the same bytes."""
    from safetensors.torch import save

    folder.mkdir(parents=True)
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.net.state_dict().items()}
    (folder / _WEIGHTS).write_bytes(save(weights))  # not save_file, whose error on a full disk is not an OSError
    description = {"architecture": asdict(model.architecture), "meaning": asdict(model.input_spec)}
    description |= {"privacy": model.privacy} if model.privacy else {}
    description |= {"pretrained": model.pretrained} if model.pretrained else {}
    write_json(folder / _DESCRIPTION, description)


def load_model(folder: Path) -> Model:
    """Read a folder that ``save_model`` wrote; the network is in evaluation mode, on the CPU.

    Layers have the sizes of the stored tensors, as a pruned network's are narrower than its architecture's.

    Raises:
        UserError: a file is missing, truncated, or of another format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from isoflop.models.families import build

    try:
        description = json.loads((folder / _DESCRIPTION).read_text())
        shape = description["architecture"]
        architecture = FromCheckpoint(**shape) if "config" in shape else Architecture(**shape)
        input_spec = InputSpec(**description["meaning"])
        weights = load_file(folder / _WEIGHTS)
        net = build(architecture)
        resize(net, weights)
        net.load_state_dict(weights)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())
        raise UserError(f"{folder}: not a readable model ({why}); fix: `dvc checkout`") from None
    return Model(net.eval(), architecture, input_spec, description.get("privacy"), description.get("pretrained"))


def digest(net: nn.Module) -> str:
    """Return the hexadecimal BLAKE2b-128 of all parameters and buffers."""
    import hashlib

    found = hashlib.blake2b(digest_size=16)
    for value in net.state_dict().values():
        found.update(value.cpu().numpy().tobytes())
    return found.hexdigest()


def resize(net: nn.Module, weights: Mapping[str, Tensor]) -> list[nn.Module]:
    """Give every layer the sizes of the tensors in ``weights``; return the layers that changed, with values unset."""
    import torch
    from torch import nn

    changed = []
    for name, module in net.named_modules():
        stored = weights.get(f"{name}.weight")
        if stored is None or stored.shape == module.weight.shape:
            continue
        changed.append(module)
        for part in (*dict(module.named_parameters(recurse=False)), *dict(module.named_buffers(recurse=False))):
            old, shape = getattr(module, part), weights[f"{name}.{part}"].shape
            new = torch.empty(shape, dtype=old.dtype)
            setattr(module, part, nn.Parameter(new) if isinstance(old, nn.Parameter) else new)
        if isinstance(module, nn.Conv2d):
            module.out_channels = len(stored)
            if module.groups > 1:  # depthwise: as many groups as channels
                module.groups = module.out_channels
            module.in_channels = stored.shape[1] * module.groups
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = stored.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(stored)
    return changed
