"""Which images an epoch draws: all of them once, or those that are learned already less often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


def shuffled(indices: Indices, rng: np.random.Generator) -> tuple[Indices, Floats]:
    """Each image once, with weight 1."""
    return rng.permutation(indices), np.ones(len(indices), np.float32)


def hard_first(
    indices: Indices, losses_N: Floats, infobatch: float, rng: np.random.Generator
) -> tuple[Indices, Floats]:
    """As many draws as there are images, from one pass after the other of which each leaves out some easy images.

    Easy is an image whose last loss is below the mean; a pass leaves it out with probability ``infobatch``, and where
    it comes its weight is 1 / (1 - infobatch): in expectation the gradient is that of a pass over all images
    (Qin et al. 2024, "InfoBatch"). What a pass leaves out makes room for the next one, so that an epoch
    costs what it always does and sees hard images more often.

    Args:
        losses_N: the last loss of each image of ``indices``.

    Returns:
        Images and their weights, in the order in which they are drawn.
    """
    easy_N = losses_N < losses_N.mean()
    places: list[Indices] = []
    while sum(map(len, places)) < len(indices):
        kept_N = ~easy_N | (rng.random(len(indices)) >= infobatch)
        places.append(rng.permutation(np.flatnonzero(kept_N)))
    places_N = np.concatenate(places)[: len(indices)]
    weights_N = np.where(easy_N[places_N], 1 / (1 - infobatch), 1.0).astype(np.float32)
    return indices[places_N], weights_N
