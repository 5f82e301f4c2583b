"""Choice of the calibration images, and silence while ONNX Runtime's quantizer works."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import Images, Labels


def calibration_images(images_NHWC: Images, labels_N: Labels, count: int) -> Images:
    """At most ``count`` images uint8 [N, H, W, C] to calibrate on: the first of each class, the second of each, ..."""
    picked: Images = images_NHWC[in_turns(labels_N, count)]
    return picked


def in_turns(labels_N: Labels, count: int) -> npt.NDArray[np.int64]:
    """Indices of the first image of each class, the second of each, and so on, up to ``count``; in ascending order,
    the fastest to read from a memory map."""
    order = np.argsort(labels_N, kind="stable")
    starts = np.searchsorted(labels_N[order], labels_N[order])
    rank_N = np.empty(len(order), np.int64)  # of an image within its class
    rank_N[order] = np.arange(len(order)) - starts
    return np.sort(np.lexsort((labels_N, rank_N))[:count])


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard what ONNX Runtime's quantizer prints."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
