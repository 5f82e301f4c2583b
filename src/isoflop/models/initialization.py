"""Initial weights: random, with a head of zeros, and a resnet's stem that whitens the training images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isoflop.data.loading import TrainingImages
from isoflop.data.normalization import normalize
from isoflop.models.architecture import Architecture
from isoflop.models.families import build
from isoflop.models.resnet import Resnet

_SAMPLE = 5000  # images
_EPSILON = 5e-4  # added to the eigenvalues, so that directions without variance are not amplified


def initialized(built: Architecture, images: TrainingImages, seed: int) -> nn.Module:
    """Return a network with random weights by ``seed``; the stem of a resnet whitens the patches of ``images``.

    The head starts at 0, so that logits start equal at every width (Yang et al. 2022, "Tensor Programs V", appendix
    D.2) and the layers before the head start with small gradients.
    """
    torch.manual_seed(seed)
    net = build(built)
    for weight in net.get_submodule("head").parameters():
        nn.init.zeros_(weight)
    if isinstance(net, Resnet):
        first = images.indices[: min(_SAMPLE, len(images))]
        sample = torch.from_numpy(np.array(images.split.images[first]))
        net.stem.weight.data[:] = whitening_filters(normalize(sample, images.split.input_spec), net.stem)
    return net


def whitening_filters(images_BCHW: Tensor, stem: nn.Conv2d) -> Tensor:
    """Return filters [2 C h w, C, h, w] whose outputs on the patches of the images are uncorrelated with variance 1.

    They are the eigenvectors of the patches' second moments, each divided by the root of its eigenvalue, the largest
    eigenvalue first; then the same negated, as a nonlinearity follows (Page 2019, "How to Train Your ResNet 8"; K.
    Jordan 2024).
    """
    sides = (int(stem.kernel_size[0]), int(stem.kernel_size[1]))
    patches_BDL = functional.unfold(images_BCHW, sides)
    patches_ND = patches_BDL.transpose(1, 2).flatten(0, 1).double()
    values_D, vectors_DD = torch.linalg.eigh(patches_ND.T @ patches_ND / len(patches_ND))
    filters_DD = (vectors_DD / (values_D + _EPSILON).sqrt()).T.flip(0)
    return torch.cat([filters_DD, -filters_DD]).view(stem.weight.shape).float()
