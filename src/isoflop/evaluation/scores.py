"""Scores of a classifier on a split: accuracy, NLL, calibration, scores per class, mistakes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from isoflop.data.arrays import Labels, Split
from isoflop.runtime.params import Section

if TYPE_CHECKING:
    from torch import nn

Floats = npt.NDArray[np.float64]
Logits = npt.NDArray[np.floating[Any]]  # N, K; float32 from ONNX Runtime, float64 from torch


class Evaluate(Section):
    """Section ``evaluate``."""

    ece_bins: int = Field(ge=1, le=1000)  # equal intervals of confidence, for the expected calibration error
    mistakes: int = Field(ge=1, le=100)  # images to show, the most confident mistakes first
    saliency_images: int = Field(ge=1, le=50)  # images to show: the first of each class
    test_time_flips: bool  # also measure the accuracy of the mean of each image's and its mirror image's logits


@dataclass(frozen=True)
class Bin:
    """Predictions whose confidence is in one of the equal intervals of (0, 1]."""

    confidence: float  # mean
    accuracy: float
    images: int


def predict_logits(net: nn.Module, split: Split, *, mirrored: bool = False) -> Floats:
    """Logits float64 [N, K] of every image of ``split``, or of its mirror image, in order."""
    import torch

    from isoflop.data.loading import evaluation_batches
    from isoflop.data.normalization import normalize

    with torch.inference_mode():
        batches = [
            net(normalize(images_BHWC.flip(2) if mirrored else images_BHWC, split.input_spec)).double().numpy()
            for images_BHWC, _ in evaluation_batches(split, torch.device("cpu"))
        ]
    return np.concatenate(batches)


def probabilities(logits_NK: Floats) -> Floats:
    """Probabilities [N, K]: the softmax of the logits over the classes."""
    from scipy.special import softmax

    shares_NK: Floats = softmax(logits_NK, axis=1)
    return shares_NK


def accuracy(logits_NK: Logits, labels_N: Labels) -> float:
    """Share of the images whose label has the largest logit."""
    return float((logits_NK.argmax(1) == labels_N).mean())


def class_recalls(logits_NK: Logits, labels_N: Labels) -> Floats:
    """Recall [K]: the share of the images of each class that are classified correctly; NaN for a class without any."""
    correct_N, classes = logits_NK.argmax(1) == labels_N, logits_NK.shape[1]
    images_K = np.bincount(labels_N, minlength=classes).astype(np.float64)
    found_K = np.bincount(labels_N, correct_N, minlength=classes)
    recalls_K: Floats = np.divide(found_K, images_K, out=np.full(classes, np.nan), where=images_K > 0)
    return recalls_K


def balanced_accuracy(logits_NK: Logits, labels_N: Labels) -> float:
    """Mean recall of the classes that have images: every class counts the same, however few its images are."""
    return float(np.nanmean(class_recalls(logits_NK, labels_N)))


def macro_f1(logits_NK: Logits, labels_N: Labels) -> float:
    """Mean F1 of the classes that have images; 0 for a class that is never predicted."""
    from sklearn.metrics import f1_score

    return float(f1_score(labels_N, logits_NK.argmax(1), labels=np.unique(labels_N), average="macro", zero_division=0))


def mean_nll(logits_NK: Logits, labels_N: Labels) -> float:
    """Mean negative log-likelihood of the labels, in nats."""
    from scipy.special import log_softmax

    log_shares_NK = log_softmax(logits_NK.astype(np.float64), axis=1)
    return -float(log_shares_NK[np.arange(len(labels_N)), labels_N].mean())


def scores(logits_NK: Floats, labels_N: Labels, classes: list[str], ece_bins: int) -> dict[str, object]:
    """Content of ``metrics/evaluate.json``.

    ``nll`` is the mean negative log-likelihood in nats. ``precision``, ``recall`` and ``f1`` are macro averages; the
    precision of a class that is never predicted is 0. ``ece`` is the expected calibration error of Guo et al. 2017,
    eq. 3, with equal intervals.
    """
    from sklearn.metrics import precision_recall_fscore_support

    indices = list(range(len(classes)))
    per_class = precision_recall_fscore_support(labels_N, logits_NK.argmax(1), labels=indices, zero_division=0)
    precision, recall, f1 = (_rounded(values.mean()) for values in per_class[:3])
    return {
        "images": len(labels_N),
        "accuracy": _rounded(accuracy(logits_NK, labels_N)),
        "balanced_accuracy": _rounded(balanced_accuracy(logits_NK, labels_N)),
        "nll": _rounded(mean_nll(logits_NK, labels_N)),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "ece": _rounded(expected_calibration_error(reliability(logits_NK, labels_N, ece_bins))),
        "per_class": {
            name: {
                "precision": _rounded(per_class[0][index]),
                "recall": _rounded(per_class[1][index]),
                "f1": _rounded(per_class[2][index]),
                "images": int(per_class[3][index]),
            }
            for index, name in enumerate(classes)
        },
    }


def reliability(logits_NK: Floats, labels_N: Labels, bins: int) -> list[Bin]:
    """The bins that are not empty, from low to high confidence."""
    shares_NK = probabilities(logits_NK)
    confidence_N, correct_N = shares_NK.max(1), shares_NK.argmax(1) == labels_N
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(int) - 1, 0, bins - 1)
    found = []
    for index in np.unique(bin_N):
        inside = bin_N == index
        found.append(Bin(float(confidence_N[inside].mean()), float(correct_N[inside].mean()), int(inside.sum())))
    return found


def expected_calibration_error(bins: list[Bin]) -> float:
    """Mean absolute difference of confidence and accuracy over the bins, weighted by their images."""
    total = sum(found.images for found in bins)
    return sum(found.images * abs(found.accuracy - found.confidence) for found in bins) / total


def worst_mistakes(logits_NK: Floats, labels_N: Labels, count: int) -> list[int]:
    """Indices of at most ``count`` misclassified images, the most confident first."""
    shares_NK = probabilities(logits_NK)
    wrong = np.flatnonzero(shares_NK.argmax(1) != labels_N)
    order = np.argsort(-shares_NK[wrong].max(1), kind="stable")
    return [int(index) for index in wrong[order[:count]]]


def _rounded(value: float) -> float:
    return round(float(value), 6)
