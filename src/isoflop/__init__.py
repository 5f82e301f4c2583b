"""isoflop: how big should my image classifier be, and how small can I ship it?

The names in ``__all__`` are the public API, for notebooks and services (docs/api.md). Each is imported on first use, so
``import isoflop`` costs nothing; everything else may change without notice.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoflop.data.arrays import Split, read_split
    from isoflop.inference.onnx_files import OnnxClassifier
    from isoflop.inference.prediction import Failure, Prediction, open_model, predict
    from isoflop.runtime.errors import UserError
    from isoflop.scaling.analysis import Analysis, analyse
    from isoflop.scaling.tables.user_tables import Columns, read_table

__all__ = [
    "Analysis",
    "Columns",
    "Failure",
    "OnnxClassifier",
    "Prediction",
    "Split",
    "UserError",
    "analyse",
    "open_model",
    "predict",
    "read_split",
    "read_table",
]

_MODULES = {
    "isoflop.data.arrays": ("Split", "read_split"),
    "isoflop.inference.onnx_files": ("OnnxClassifier",),
    "isoflop.inference.prediction": ("Failure", "Prediction", "open_model", "predict"),
    "isoflop.runtime.errors": ("UserError",),
    "isoflop.scaling.analysis": ("Analysis", "analyse"),
    "isoflop.scaling.tables.user_tables": ("Columns", "read_table"),
}


def __getattr__(name: str) -> Any:
    if name == "scaling":  # a package with names of its own: ``isoflop.scaling.fit``
        return importlib.import_module("isoflop.scaling")
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'isoflop' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
