"""Scaling laws from a table of training runs: fit, uncertainty, diagnostics and compute-optimal size.

Start at ``analysis.analyse``, or at ``fit`` for a table. The package knows neither images nor reports. ``fit``,
``fit_learning_curve`` and ``fit_routing_law`` are its public API and are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoflop.scaling.fitted_law import FittedLaw, fit
    from isoflop.scaling.fitting.learning_curves import fit_learning_curve
    from isoflop.scaling.fitting.routing import fit_routing_law

__all__ = ["FittedLaw", "fit", "fit_learning_curve", "fit_routing_law"]

_MODULES = {
    "FittedLaw": "fitted_law",
    "fit": "fitted_law",
    "fit_learning_curve": "fitting.learning_curves",
    "fit_routing_law": "fitting.routing",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"isoflop.scaling.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'isoflop.scaling' has no attribute {name!r}")
