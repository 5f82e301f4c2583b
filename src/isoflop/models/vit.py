"""Vision transformer: patch embeddings of size 4 * width, ``depth`` pre-norm blocks, mean over the patches.

As in Dosovitskiy et al. 2021, with the mean over the patches instead of the class token (compared in Zhai et al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from isoflop.models.activations import activation
from isoflop.models.architecture import Architecture


class _Attention(nn.Module):
    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.output = nn.Linear(size, size)

    def forward(self, x_BTE: Tensor) -> Tensor:
        query, key, value = (
            layer(x_BTE).unflatten(2, (self.heads, -1)).transpose(1, 2)  # B, heads, T, size of a head
            for layer in (self.query, self.key, self.value)
        )
        mixed: Tensor = self.output(scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return mixed


class _Block(nn.Module):
    def __init__(self, of: Architecture) -> None:
        super().__init__()
        size = 4 * of.width
        self.norm1 = nn.LayerNorm(size)
        self.attention = _Attention(size, of.heads)
        self.norm2 = nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(size, 4 * size), activation(of, "gelu"), nn.Linear(4 * size, size))
        self.dropout = nn.Dropout(of.dropout)

    def forward(self, x_BTE: Tensor) -> Tensor:
        x_BTE = x_BTE + self.dropout(self.attention(self.norm1(x_BTE)))
        added: Tensor = x_BTE + self.dropout(self.mlp(self.norm2(x_BTE)))
        return added


class _Positions(nn.Module):
    """Position embeddings, in a module because Opacus computes each image's gradient by module."""

    def __init__(self, patches: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.02 * torch.randn(1, patches, size))

    def forward(self, x_BTE: Tensor) -> Tensor:
        return x_BTE + self.weight


class Vit(nn.Module):
    takes_any_size = False

    @property
    def keeps_channels(self) -> list[str]:
        """Names of the layers whose channels pruning keeps: those of the residual sum, and the attention heads."""
        parts = ("attention.query", "attention.key", "attention.value", "attention.output", "mlp.2")
        return ["patches", *(f"blocks.{index}.{part}" for index in range(len(self.blocks)) for part in parts)]

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        self.checkpoints_activations = (
            False  # recompute activations in backward instead of keeping them (Chen et al. 2016)
        )
        size = 4 * of.width
        self.patches = nn.Conv2d(of.channels, size, of.patch_size, stride=of.patch_size)
        self.position = _Positions((of.image_size // of.patch_size) ** 2, size)
        self.blocks = nn.Sequential(*(_Block(of) for _ in range(of.depth)))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, of.num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        x_BTE = self.position(self.patches(images_BCHW).flatten(2).transpose(1, 2))
        for block in self.blocks:
            keeps = not (self.checkpoints_activations and self.training)
            x_BTE = block(x_BTE) if keeps else checkpoint(block, x_BTE, use_reentrant=False)
        logits_BK: Tensor = self.head(self.norm(x_BTE).mean(1))
        return logits_BK
