"""Lightning callbacks: the history of a training, its best weights, losses by image for InfoBatch, and a progress bar.

Their state is in the checkpoint, so a resumed training ends with the bytes of an undisturbed one. Lightning's own
``EarlyStopping`` counts validations where ``train.patience`` counts epochs, and its ``EMAWeightAveraging`` copies the
whole module, validation images included; so neither is used.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from isoflop.runtime.errors import UserError
from isoflop.runtime.experiment_loggers import ExperimentLog
from isoflop.runtime.progress import Task, progress
from isoflop.training.batches import Batch, Floats
from isoflop.training.lightning_module import DivergedError, Training

if TYPE_CHECKING:
    from dvclive import Live

Row = dict[str, float]  # metrics of an epoch, by name

_NO_PRUNING_FROM = 0.85  # fraction of the training after which InfoBatch leaves out no image (Qin et al. 2024: 0.875)


class Curves:
    """The curves of one training as DVCLive writes them to ``folder``: a file per metric, a row per epoch."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logged = 0
        self._live: Live | None = None

    def write(self, history: list[Row]) -> None:
        """Log the rows of ``history`` that are new; after a resume, the rows from before it too.

        Raises:
            UserError: the git repository has no commit.
        """
        from dvclive import Live
        from scmrepo.exceptions import SCMError

        if self._live is None:
            # no dvc.yaml and no experiment of DVCLive: the stage's dvc.yaml has both
            try:
                self._live = Live(str(self._folder), dvcyaml=None, save_dvc_exp=False)
            except SCMError as error:
                why = " ".join(str(error).split())
                raise UserError(
                    f"git: {why}, expected at least one commit; fix: `git add -A && git commit -m start`"
                ) from None
        for row in history[self._logged :]:
            for name, value in row.items():
                self._live.log_metric(name, value)
            self._live.next_step()
        self._logged = len(history)

    def end(self) -> None:
        """Close DVCLive, which writes its summary."""
        if self._live is not None:
            self._live.end()


class History(Callback):
    """Measures each epoch, keeps the rows and writes them to ``logs``; stops a training whose loss is not finite."""

    def __init__(self, training: Training, learning_rate: float, logs: Sequence[Curves | ExperimentLog]) -> None:
        self.rows: list[Row] = []
        self.seconds = 0.0  # in training steps, validation excluded; of this process
        self._training, self._learning_rate, self._logs = training, learning_rate, logs
        self._epoch_start = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        self._epoch_start = time.monotonic()

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        plan, epoch = self._training.plan, trainer.current_epoch + 1
        row: Row = {"train/loss": self._training.mean_loss()}  # waits for the device
        self.seconds += time.monotonic() - self._epoch_start
        if trainer.should_stop or epoch == plan.epochs or epoch % plan.validate_every == 0:
            row["val/nll"], row["val/accuracy"] = self._training.validate()
        if not all(math.isfinite(value) for value in row.values()):
            raise DivergedError(
                f"params.yaml: recipe.learning_rate: got {self._learning_rate}, and the loss is not finite after epoch "
                f"{epoch}; fix: a lower learning rate, or recipe.gradient_clip 1.0"
            )
        self.rows.append(row)
        self._write(trainer)

    def on_fit_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self._write(trainer)  # needed if the checkpoint is of the last epoch and none is left to train
        for log in self._logs:
            if isinstance(log, Curves) and trainer.is_global_zero:
                log.end()

    def _write(self, trainer: pl.Trainer) -> None:
        for log in self._logs if trainer.is_global_zero else ():
            log.write(self.rows)

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = state_dict["rows"]


class BestWeights(Callback):
    """With ``patience``: keeps the weights with the best validation NLL, and stops after that many epochs without a
    better one."""

    def __init__(self, training: Training, history: History, patience: int | None) -> None:
        self.weights: dict[str, Tensor] = {}  # on the CPU; empty without patience
        self.epoch = 0  # of these weights, counted from 1; 0 without patience
        self._training, self._history, self._patience, self._nll = training, history, patience, math.inf

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if not self._patience:
            return
        rows = self._history.rows
        nll = rows[-1].get("val/nll", math.inf)
        if nll < self._nll:
            state = self._training.trained.state_dict()
            self.weights = {name: value.detach().cpu().clone() for name, value in state.items()}
            self._nll, self.epoch = nll, len(rows)
        if len(rows) - self.epoch >= self._patience:
            trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights, "nll": self._nll, "epoch": self.epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.weights, self._nll, self.epoch = (state_dict[name] for name in ("weights", "nll", "epoch"))


class LossesByImage(Callback):
    """Keeps the latest loss of each of the split's ``images`` images, by which InfoBatch chooses what to draw."""

    def __init__(self, training: Training, images: int) -> None:
        self._training = training
        self._latest_N: Floats = np.zeros(images, np.float32)
        self._epoch_N2 = torch.zeros(images, 2)  # of this epoch: the latest loss, and 1 if the image was seen

    def latest(self) -> Floats | None:
        """The latest losses [N]; None in the first epoch and in the last part, where every image is drawn."""
        step = self._training.global_step
        return self._latest_N if step > 0 and self._training.progress(step) < _NO_PRUNING_FROM else None

    def on_train_epoch_start(self, *_: Any) -> None:
        self._epoch_N2 = torch.zeros(self._epoch_N2.shape, device=self._training.device)

    def on_train_batch_end(self, _: Any, __: Any, outputs: Any, batch: Batch, *___: Any) -> None:
        losses_B = outputs["image_losses"]
        self._epoch_N2.index_put_((batch.indices,), torch.stack([losses_B, torch.ones_like(losses_B)], 1))

    def on_train_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        reduced_N2: Tensor = trainer.strategy.reduce(self._epoch_N2, reduce_op="sum")
        sum_N, seen_N = reduced_N2.cpu().numpy().T
        self._latest_N = np.where(seen_N > 0, sum_N / np.maximum(seen_N, 1), self._latest_N).astype(np.float32)

    def state_dict(self) -> dict[str, Any]:
        return {"latest": torch.from_numpy(self._latest_N)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._latest_N = state_dict["latest"].numpy()


class ProgressDisplay(Callback):
    """Shows ``doing`` with the number of images seen and expected."""

    def __init__(self, training: Training, doing: str) -> None:
        self._training, self._doing = training, doing
        self._shown = ExitStack()
        self._task: Task | None = None

    def on_train_start(self, trainer: pl.Trainer, *_: Any) -> None:
        self._task = self._shown.enter_context(progress(self._doing, "images"))
        self._task.begin(self._images(trainer.global_step))

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        step = trainer.global_step
        fraction = self._training.progress(step)
        if self._task and fraction > 0:  # 0 until the first step is complete, under gradient accumulation
            self._task.update(self._images(step), self._images(step / fraction))

    def on_train_end(self, *_: Any) -> None:
        self._shown.close()

    def on_exception(self, _: Any, __: Any, exception: BaseException) -> None:
        self._shown.__exit__(type(exception), exception, exception.__traceback__)

    def _images(self, steps: float) -> int:
        return round(self._training.plan.images_an_epoch * steps / self._training.plan.steps_an_epoch)
