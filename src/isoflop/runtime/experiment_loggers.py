"""What the base's training is also told to, by ``train.logger``: TensorBoard, MLflow or Weights & Biases.

It goes to ``.isoflop/logs``, which neither git nor DVC looks at: no output of a stage depends on it, and so no stage
depends on this module or on that key (see ``untracked`` in ``isoflop.runtime.params``).
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

_FOLDER = Path(".isoflop") / "logs"
_PACKAGES = {"tensorboard": ("tensorboard",), "mlflow": ("mlflow", "sqlalchemy", "alembic"), "wandb": ("wandb",)}


class ExperimentLog:
    """One training, told to a logger an epoch at a time: parameters at the start, then each row of its history."""

    def __init__(self, name: str, run: str, params: dict[str, Any]) -> None:
        """
        Args:
            name: ``tensorboard``, ``mlflow`` or ``wandb``.
            run: what to call the training there.

        Raises:
            UserError: its package is not installed.
        """
        lacking = [package for package in _PACKAGES[name] if importlib.util.find_spec(package) is None]
        if lacking:
            raise UserError(
                f"params.yaml: train.logger: found {name!r}, which takes {', '.join(lacking)}: "
                f"`pip install 'isoflop[{name}]'`"
            )
        self._logged = 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations within the loggers' own packages
            self._logger = _opened(name, run)
            self._logger.log_hyperparams(params)

    def write(self, history: list[dict[str, float]]) -> None:
        """Log the rows of ``history`` that are new; of a training that was taken up again, those before it too."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for epoch, row in enumerate(history[self._logged :], self._logged + 1):
                self._logger.log_metrics(row, step=epoch)
            self._logger.save()
        self._logged = len(history)

    def __enter__(self) -> ExperimentLog:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the run, as a failed one where the training failed, whose error a logger's must not hide."""
        if kind is None:
            self._end(whole=True)
        else:
            with contextlib.suppress(Exception):
                self._end(whole=False)

    def _end(self, *, whole: bool) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._logger.finalize("success" if whole else "failed")
            if finish := getattr(self._logger.experiment, "finish", None):  # of W&B, which has a process of its own
                finish(exit_code=0 if whole else 1)


def _opened(name: str, run: str) -> Any:
    """The Lightning logger; MLflow's tracking server by its own variable, W&B never by the network."""
    from pytorch_lightning import loggers

    _FOLDER.mkdir(parents=True, exist_ok=True)
    if name == "tensorboard":
        return loggers.TensorBoardLogger(_FOLDER / name, run, default_hp_metric=False)
    if name == "mlflow":
        logging.getLogger("mlflow").setLevel(logging.WARNING)  # says that it makes its tables
        logging.getLogger("alembic").setLevel(logging.WARNING)
        store = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(_FOLDER / 'mlflow.db').as_posix()}"
        return loggers.MLFlowLogger("isoflop", run, store)
    os.environ.setdefault("WANDB_SILENT", "true")
    return loggers.WandbLogger(run, save_dir=_FOLDER, project="isoflop", offline=True)
