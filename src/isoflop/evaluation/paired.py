"""Paired comparison of two classifiers on the same images: changed predictions and the difference in accuracy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import Labels
from isoflop.inference.onnx_files import Floats

Correct = npt.NDArray[np.bool_]
_Z = 1.959964  # standard normal quantile of a two-sided 95 % interval


@dataclass(frozen=True)
class Paired:
    """A variant compared with the base on the same labelled images."""

    gained: int  # images that only the variant classifies correctly
    lost: int  # images that only the base classifies correctly
    difference: float  # accuracy of the variant minus that of the base
    low: float  # lower and upper end of its 95 % interval
    high: float
    p_value: float  # of the exact McNemar test; null hypothesis: gained and lost are equally likely


def paired(base_NK: Floats, variant_NK: Floats, labels_N: Labels) -> Paired:
    """Compare logits [N, K] of two classifiers for the same images.

    Raises:
        ValueError: there are no images.
    """
    return paired_answers(base_NK.argmax(1) == labels_N, variant_NK.argmax(1) == labels_N)


def paired_answers(base_N: Correct, variant_N: Correct) -> Paired:
    """Compare two classifiers, given for each image whether its prediction is correct.

    The two err on mostly the same images, so the interval of the difference is much narrower than those of the two
    accuracies. It is the interval of Agresti and Min (2005, "Simple improved confidence intervals for comparing matched
    proportions"), with half an image added to each of the four cells; the test is McNemar's (1947), exact.

    Raises:
        ValueError: there are no images.
    """
    from scipy.stats import binomtest

    count = len(base_N)
    if not count:
        raise ValueError("no images to compare on")
    gained, lost = int((variant_N & ~base_N).sum()), int((base_N & ~variant_N).sum())
    changed, shift = gained + lost + 1, gained - lost
    center = shift / (count + 2)
    half_width = _Z * float(np.sqrt(changed - shift**2 / (count + 2))) / (count + 2)
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Paired(gained, lost, shift / count, max(-1.0, center - half_width), min(1.0, center + half_width), p_value)


def class_changes(base_NK: Floats, variant_NK: Floats, labels_N: Labels, classes: list[str]) -> dict[str, float]:
    """Recall of the variant minus that of the base, for every class that has images, the largest loss first."""
    base_N, variant_N = base_NK.argmax(1) == labels_N, variant_NK.argmax(1) == labels_N
    changes = {
        name: float(variant_N[of_class].mean() - base_N[of_class].mean())
        for index, name in enumerate(classes)
        if (of_class := labels_N == index).any()
    }
    return dict(sorted(changes.items(), key=lambda item: item[1]))
