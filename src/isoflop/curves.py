"""Training curves by DVCLive: a file a metric, a row an epoch, written while the training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pytorch_lightning.callbacks import Callback

if TYPE_CHECKING:
    from dvclive import Live


class Curves(Callback):
    """Logs each row of the module's ``history``; those of a training that is taken up again come first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logged = 0
        self._live: Live | None = None

    def on_train_epoch_end(self, _: Any, module: Any) -> None:
        from dvclive import Live

        if self._live is None:
            # without its own dvc.yaml and experiment: this stage's dvc.yaml has both
            self._live = Live(str(self._folder), dvcyaml=None, save_dvc_exp=False)
        for row in module.history[self._logged :]:
            for name, value in row.items():
                self._live.log_metric(name, value)
            self._live.next_step()
        self._logged = len(module.history)

    def on_fit_end(self, *_: Any) -> None:
        if self._live is not None:
            self._live.end()
