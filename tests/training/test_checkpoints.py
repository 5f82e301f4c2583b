"""A checkpoint that a kill or a disk damaged is noticed, and the training starts again."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from isoflop.data.loading import all_images
from isoflop.training.checkpoints import VerifiedCheckpoints, is_intact
from isoflop.training.fitting import Fitted, fit
from tests.networks import digits_split, fresh_net, no_views, recipe


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x40
    file.write_bytes(content)


DAMAGES: list[Callable[[Path], object]] = [
    flip,
    lambda file: os.truncate(file, file.stat().st_size // 2),
    lambda file: os.truncate(file, 0),
    lambda file: file.with_name("last.ckpt.sha256").unlink(),
    lambda file: file.with_name("last.ckpt.sha256").write_bytes(b"\xff"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_noticed(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    file = tmp_path / "resume" / "last.ckpt"
    for epoch in range(2):
        VerifiedCheckpoints().save_checkpoint({"weights": torch.full((99,), epoch)}, file)
    assert is_intact(file) and sorted(path.name for path in file.parent.iterdir()) == ["last.ckpt", "last.ckpt.sha256"]
    damage(file)
    assert not is_intact(file)


def test_after_a_kill_before_the_rename_the_old_checkpoint_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "last.ckpt"
    VerifiedCheckpoints().save_checkpoint({"epoch": 1}, file)
    replace = os.replace

    def killed(source: Path, target: Path) -> None:
        if Path(target) == file:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        VerifiedCheckpoints().save_checkpoint({"epoch": 2}, file)
    assert is_intact(file) and torch.load(file) == {"epoch": 1}


def test_a_training_starts_again_from_a_damaged_checkpoint(tmp_path: Path) -> None:
    train, val = digits_split(tmp_path / "train", 0, 1200), digits_split(tmp_path / "val", 1200, 1500)

    def trained() -> tuple[Fitted, dict[str, torch.Tensor]]:
        net = fresh_net()
        images = all_images(train, no_views(train))
        return fit(
            net, images, val, recipe(epochs=2), width=16, seed=0, checkpoint=tmp_path / "resume"
        ), net.state_dict()

    whole, weights = trained()
    assert is_intact(tmp_path / "resume" / "last.ckpt")
    flip(tmp_path / "resume" / "last.ckpt")
    again, same = trained()
    assert again.history == whole.history and again.timed_images == whole.timed_images > 0
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert trained()[0].timed_images == 0, "an intact checkpoint of the last epoch leaves nothing to train"
