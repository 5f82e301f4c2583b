"""Batches have each image once per epoch, are reproducible, and are augmented as the recipe specifies."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.data.arrays import InputSpec, Split, SplitWriter, read_split
from isoflop.data.loading import all_images, subset
from isoflop.runtime.errors import UserError
from isoflop.training.batches import TrainingBatches
from tests.networks import digits_split, no_views, recipe


@pytest.fixture
def split(tmp_path: Path) -> Split:
    return digits_split(tmp_path / "train", 0, 210)


def batches(split: Split, views: Any = None, rank: int = 0, world: int = 1, **changes: Any) -> TrainingBatches:
    seed = changes.pop("seed", 0)
    images = all_images(split, no_views(split) if views is None else views)
    how = recipe(**({"batch_size": 50} | changes))
    return TrainingBatches(images, how, seed, device=torch.device("cpu"), rank=rank, world=world)


def test_each_image_is_seen_once_an_epoch(split: Split) -> None:
    loader = batches(split)
    drawn = list(loader)
    assert len(drawn) == len(loader) == 4
    assert sorted(len(labels) for _, labels, *_ in drawn) == [52, 52, 53, 53]
    seen = Counter(image.numpy().tobytes() for images, *_ in drawn for image in images)
    assert seen == Counter(image.tobytes() for image in np.asarray(split.images))


def test_an_epoch_is_drawn_the_same_again_and_another_differs(split: Split) -> None:
    loader = batches(split, flip="random", shift=1, cutout=2)
    first, again = list(loader), list(loader)
    for (left, *_), (right, *_) in zip(first, again, strict=True):
        torch.testing.assert_close(left, right)
    loader.epoch = 1
    assert any(
        (left != right).any() for (left, *_), (right, *_) in zip(first, loader, strict=True) if len(left) == len(right)
    )


def test_every_view_of_an_image_comes_in_turn(split: Split) -> None:
    views = np.stack([np.full_like(split.images, number) for number in (251, 252)])
    loader = batches(split, views, batch_size=210)
    kinds = []
    for epoch in range(3):
        loader.epoch = epoch
        images, *_ = next(iter(loader))
        means = images.double().mean((1, 2, 3))
        kinds.append(Counter({number: int((means == number).sum()) for number in (251, 252)}))
        assert 0 < sum(kinds[-1].values()) < 210
    assert sum(kinds, Counter()) == {251: 210, 252: 210}


def test_the_processes_of_a_training_share_each_batch(split: Split) -> None:
    whole = list(batches(split, flip="random", shift=2, cutout=3))
    shares = [list(batches(split, flip="random", shift=2, cutout=3, rank=rank, world=2)) for rank in range(2)]
    for (images, labels, *_), one, two in zip(whole, *shares, strict=True):
        torch.testing.assert_close(images[0::2], one[0])
        torch.testing.assert_close(images[1::2], two[0])
        torch.testing.assert_close(labels[1::2], two[1])


def test_alternating_flips_mirror_each_image_every_other_epoch(split: Split) -> None:
    loader = batches(split, flip="alternating", batch_size=210)
    original = {image.tobytes() for image in np.asarray(split.images)}
    flipped = []
    for epoch in range(2):
        loader.epoch = epoch
        images, *_ = next(iter(loader))
        flipped.append({image.numpy().tobytes() for image in images} - original)
    assert len(flipped[0]) + len(flipped[1]) == 210
    assert 60 < len(flipped[0]) < 150


def test_a_shift_moves_by_whole_pixels_with_the_edge_reflected(split: Split) -> None:
    images, *_ = next(iter(batches(split, shift=2, batch_size=210)))
    assert not torch.equal(images, images.flip(2))
    padded = np.pad(np.asarray(split.images), ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    allowed = {
        padded[:, down : down + 8, right : right + 8][index].tobytes()
        for down in range(5)
        for right in range(5)
        for index in range(210)
    }
    assert all(image.numpy().tobytes() in allowed for image in images)


def test_cutout_fills_a_square_with_the_mean(split: Split) -> None:
    plain, *_ = next(iter(batches(split, batch_size=210)))
    cut, *_ = next(iter(batches(split, cutout=3, batch_size=210)))
    changed = (plain != cut).any(3)
    assert 0 < changed.sum((1, 2)).max() <= 9
    assert (cut[(plain != cut)] == round(255 * 0.3)).all()


def test_subsets_are_stratified_and_nested(split: Split) -> None:
    everything = all_images(split, no_views(split))
    small, large = subset(everything, 0.25, 3), subset(everything, 0.5, 3)
    assert set(small.indices) < set(large.indices)
    counts = np.bincount(split.labels[small.indices])
    np.testing.assert_allclose(counts, np.bincount(split.labels) / 4, atol=1)
    assert set(small.indices) != set(subset(everything, 0.25, 4).indices)


def test_a_batch_larger_than_the_data_is_refused(split: Split) -> None:
    with pytest.raises(UserError, match=r"recipe\.batch_size: got 211, expected at most .* 210"):
        batches(split, batch_size=211)


def test_views_of_other_images_are_refused(split: Split) -> None:
    with pytest.raises(UserError, match="got views of images"):
        all_images(split, np.zeros((2, 9, 8, 8, 1), np.uint8))


def test_easy_images_come_less_often_with_more_weight(split: Split) -> None:
    loader = batches(split, infobatch=0.5, seed=3)
    assert all(bool((weights == 1).all()) for _, _, weights, _ in loader), "without losses all images are alike"
    losses = np.where(np.arange(210) < 150, 0.1, 2.0).astype(np.float32)
    loader.losses = losses
    drawn, weight, epochs = np.zeros(210), np.zeros(210), 400
    for epoch in range(epochs):
        loader.epoch = epoch
        for _, _, weights, numbers in loader:
            np.add.at(drawn, numbers.numpy(), 1)
            np.add.at(weight, numbers.numpy(), weights.numpy())
    assert drawn.sum() == epochs * 210, "an epoch draws as many images as there are"
    assert drawn[:150].mean() / drawn[150:].mean() == pytest.approx(0.5, rel=0.02)
    assert weight[:150].mean() / weight[150:].mean() == pytest.approx(1, rel=0.02), "the gradient is biased"


def test_a_class_without_images_is_named(tmp_path: Path) -> None:
    with SplitWriter(tmp_path / "train", (8, 8, 1)) as writer:
        writer.append(np.zeros((4, 8, 8, 1), np.uint8), np.array([0, 0, 2, 2]))
        writer.finish(InputSpec(["cat", "dog", "emu"], [0.3], [0.37], "crop"))
    empty = read_split(tmp_path / "train")
    with pytest.raises(UserError, match="got no images of class 'dog', expected at least one"):
        all_images(empty, no_views(empty))
