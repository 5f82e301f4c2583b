"""Classes of uneven size: weights of the loss, adjustment of the logits, and what they do to a rare class."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from isoflop.data.arrays import Split
from isoflop.data.loading import TrainingImages, all_images
from isoflop.evaluation.scores import balanced_accuracy, predict_logits
from isoflop.models.families import build
from isoflop.runtime.errors import UserError
from isoflop.training.fitting import fit
from isoflop.training.hardware import Hardware
from isoflop.training.losses import class_balance, supervised_loss
from isoflop.training.privacy import check_private
from tests.networks import digits_architecture, digits_split, no_views, recipe

LABELS = np.array([0] * 900 + [1] * 90 + [2] * 10)


def test_none_does_nothing() -> None:
    assert class_balance(LABELS, 3, recipe()) is None


@pytest.mark.parametrize("how", ["balanced", "effective"])
def test_weights_have_mean_one_over_the_images(how: str) -> None:
    found = class_balance(LABELS, 4, recipe(class_weights=how))
    assert found and not found.offsets_K.any()
    weights_K = found.weights_K.numpy()
    assert weights_K[LABELS].mean() == pytest.approx(1)
    assert weights_K[0] < weights_K[1] < weights_K[2] and weights_K[3] == 0
    ratio = weights_K[2] / weights_K[0]
    effective = (1 - 0.999**900) / (1 - 0.999**10)
    assert ratio == pytest.approx(90 if how == "balanced" else effective)


def test_a_weighted_loss_is_the_loss_times_the_weight_of_the_label() -> None:
    logits_BK, labels_B = torch.randn(3, 3), torch.tensor([0, 1, 2])
    for changes in ({}, {"loss": "mse"}, {"label_smoothing": 0.1}):
        one = recipe(class_weights="balanced", **changes)
        classes = class_balance(LABELS, 3, one)
        assert classes
        plain_B = supervised_loss(logits_BK, labels_B, one)
        weights_B = classes.weights_K.float()
        torch.testing.assert_close(supervised_loss(logits_BK, labels_B, one, classes), plain_B * weights_B)


def test_logits_are_adjusted_by_the_log_of_the_class_shares() -> None:
    one = recipe(logit_adjustment=1.0)
    classes = class_balance(LABELS, 3, one)
    logits_BK, labels_B = torch.zeros(3, 3), torch.tensor([0, 1, 2])
    expected_B = -torch.log(torch.tensor([0.9, 0.09, 0.01]))  # a network without evidence predicts the shares
    torch.testing.assert_close(supervised_loss(logits_BK, labels_B, one, classes), expected_B)
    assert functional.softmax(logits_BK, 1)[0].tolist() == pytest.approx([1 / 3] * 3), "and evenly without adjustment"


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainingImages, Split]:
    """The digits 3 and 8, with 6 training images of the 8, and as many images of each to validate."""
    folder: Path = tmp_path_factory.mktemp("uneven")
    train, val = digits_split(folder / "train", 0, 1200), digits_split(folder / "val", 1200, 1700)
    parts = []
    for split, most in ((train, 6), (val, 1000)):
        threes, eights = np.flatnonzero(split.labels == 3), np.flatnonzero(split.labels == 8)[:most]
        chosen = np.sort(np.concatenate([threes, eights]))
        spec = dataclasses.replace(split.input_spec, classes=["three", "eight"])
        labels = (split.labels[chosen] == 8).astype(np.int64)
        parts.append(Split(np.array(split.images[chosen]), labels, spec))
    return all_images(parts[0], no_views(parts[0])), parts[1]


def test_a_rare_class_is_found_more_often(uneven: tuple[TrainingImages, Split]) -> None:
    images, val = uneven
    found = {}
    for name, changes in (
        ("none", {}),
        ("balanced", {"class_weights": "balanced"}),
        ("adjusted", {"logit_adjustment": 1.0}),
    ):
        torch.manual_seed(0)
        net = build(dataclasses.replace(digits_architecture("mlp"), num_classes=2))
        fit(net, images, val, recipe(epochs=3, batch_size=16, **changes), width=16, seed=0)
        found[name] = balanced_accuracy(predict_logits(net, val), val.labels)
    assert min(found["balanced"], found["adjusted"]) > found["none"] + 0.1, found


@pytest.mark.parametrize("changes", [{"class_weights": "balanced"}, {"logit_adjustment": 1.0}])
def test_private_training_does_not_use_class_sizes(changes: dict[str, object]) -> None:
    with pytest.raises(UserError, match=rf"recipe\.{next(iter(changes))}: got .*train\.privacy\.epsilon is set"):
        check_private("mlp", recipe(**changes), Hardware())
