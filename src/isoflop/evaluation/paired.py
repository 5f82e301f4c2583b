"""Two classifiers on the same images: who flipped, and what the difference in accuracy may be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import Labels
from isoflop.inference.onnx_files import Floats

Right = npt.NDArray[np.bool_]
_Z = 1.959964  # of 95 %


@dataclass(frozen=True)
class Paired:
    """A variant against the base on the same labelled images."""

    gained: int  # images that the base has wrong and the variant right
    lost: int  # and the other way round
    difference: float  # accuracy of the variant less that of the base
    low: float  # its 95 % interval
    high: float
    p_value: float  # McNemar: of so uneven flips, were the two equally good


def paired(base_NK: Floats, variant_NK: Floats, labels_N: Labels) -> Paired:
    """Compare logits [N, K] of two classifiers for the same images.

    Raises:
        ValueError: there are no images.
    """
    return paired_answers(base_NK.argmax(1) == labels_N, variant_NK.argmax(1) == labels_N)


def paired_answers(base_N: Right, variant_N: Right) -> Paired:
    """Compare two classifiers by which of the same images each has right.

    Both are wrong on mostly the same images, so that the interval of the difference is much narrower than those of the
    two accuracies. It is that of Agresti and Min (2005, "Simple improved confidence intervals for comparing matched
    proportions"), half an image added to each of the four kinds; the test is the exact one of McNemar (1947).

    Raises:
        ValueError: there are no images.
    """
    from scipy.stats import binomtest

    count = len(base_N)
    if not count:
        raise ValueError("no images to compare on")
    gained, lost = int((variant_N & ~base_N).sum()), int((base_N & ~variant_N).sum())
    flips, shift = gained + lost + 1, gained - lost
    middle = shift / (count + 2)
    reach = _Z * float(np.sqrt(flips - shift**2 / (count + 2))) / (count + 2)
    p_value = float(binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
    return Paired(gained, lost, shift / count, max(-1.0, middle - reach), min(1.0, middle + reach), p_value)


def class_changes(base_NK: Floats, variant_NK: Floats, labels_N: Labels, classes: list[str]) -> dict[str, float]:
    """Recall of the variant less that of the base for every class that has images, the worst first."""
    base_N, variant_N = base_NK.argmax(1) == labels_N, variant_NK.argmax(1) == labels_N
    changes = {
        name: float(variant_N[of_class].mean() - base_N[of_class].mean())
        for number, name in enumerate(classes)
        if (of_class := labels_N == number).any()
    }
    return dict(sorted(changes.items(), key=lambda item: item[1]))
