"""Rows of runs whose losses follow a known law."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from isoflop.scaling.forms import L_ND, Form

LAW = np.array([0.3, 40.0, 300.0, 0.45, 0.5])


def simulated(noise: float = 0.01, seed: int = 0, form: Form = L_ND) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for size in (1e4, 4e4, 1.6e5, 6.4e5):
        for samples in (1e4, 4e4, 1.6e5):
            loss = form.predict(LAW[None, : form.size], np.array([[size], [samples]]))[0, 0]
            rows += [
                {"N": size, "tokens": samples, "seed": one, "L": loss * math.exp(noise * rng.standard_normal())}
                for one in (0, 1)
            ]
    return rows
