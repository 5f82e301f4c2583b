"""Logging of the base model's training to TensorBoard, MLflow or Weights & Biases (``train.logger``).

Logs go to ``.isoflop/logs``, which git and DVC ignore. They are no output of a stage, so that no stage reruns when the
key changes (see ``untracked`` in ``isoflop.runtime.params``).
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import warnings
from pathlib import Path
from typing import Any

from isoflop.runtime.errors import UserError
from isoflop.runtime.terminal import without_credentials

_FOLDER = Path(".isoflop") / "logs"
_PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}


class ExperimentLog:
    """One training in a logger: its parameters at the start, then one row of metrics per epoch."""

    def __init__(self, name: str, run: str, params: dict[str, Any]) -> None:
        """
        Args:
            name: ``tensorboard``, ``mlflow`` or ``wandb``.
            run: name of the training in the logger.

        Raises:
            UserError: its package is not installed, or its server does not answer.
        """
        lacking = [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]
        if lacking:
            raise UserError(
                f"params.yaml: train.logger: got {name!r}, which needs {', '.join(lacking)}; fix: "
                f"`pip install 'isoflop[{name}]'`"
            )
        self._logged = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the loggers' packages
            try:
                self._logger = _opened(name, run)
                self._logger.log_hyperparams(params)
            except Exception as error:  # of the logger's package, which have no common base class
                # MLFLOW_TRACKING_URI may have a password
                why = without_credentials(" ".join(str(error).split()))[:300]
                raise UserError(f"params.yaml: train.logger: got {name!r}, which fails: {why}") from None

    def write(self, history: list[dict[str, float]]) -> None:
        """Log the new rows of ``history``; after a resume, also those of before it."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for epoch, row in enumerate(history[self._logged :], self._logged + 1):
                self._logger.log_metrics(row, step=epoch)
            self._logger.save()
        self._logged = len(history)

    def __enter__(self) -> ExperimentLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the run, marked as failed if the training failed, whose error must not be hidden by a logger's."""
        if kind is None:
            self._end(whole=True)
        else:
            with contextlib.suppress(Exception):
                self._end(whole=False)

    def _end(self, *, whole: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._logger.finalize("success" if whole else "failed")
            if finish := getattr(self._logger.experiment, "finish", None):  # W&B runs a process of its own
                finish(exit_code=0 if whole else 1)


def _opened(name: str, run: str) -> Any:
    """Return the Lightning logger. MLFLOW_TRACKING_URI selects MLflow's server; W&B stays offline."""
    from pytorch_lightning import loggers

    _FOLDER.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return loggers.TensorBoardLogger(_FOLDER / name, run, default_hp_metric=False)
    if name == "mlflow":
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # reports the creation of its tables
        logging.getLogger("alembic").setLevel(logging.WARNING)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(_FOLDER / 'mlflow.db').as_posix()}"
        return loggers.MLFlowLogger("isoflop", run, store)
    os.environ.setdefault("WANDB_SILENT", "true")
    return loggers.WandbLogger(run, save_dir=_FOLDER, project="isoflop", offline=True)
