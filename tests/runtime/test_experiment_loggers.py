"""A training told to TensorBoard, MLflow and Weights & Biases: what they kept is what came out, and nothing else moves.

MLflow and W&B are no development dependencies: their tests run where they are installed.
"""

from __future__ import annotations

import importlib.util
import json
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch

from isoflop.data.arrays import Split
from isoflop.data.loading import all_images
from isoflop.runtime import experiment_loggers
from isoflop.runtime.errors import UserError
from isoflop.runtime.experiment_loggers import ExperimentLog
from isoflop.training.fitting import Fitted, fit
from isoflop.training.lightning_module import Training
from tests.networks import digits_split, fresh_net, no_views, recipe

LOGS = Path(".isoflop/logs")


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def splits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    folder = tmp_path_factory.mktemp("digits")
    return digits_split(folder / "train", 0, 300), digits_split(folder / "val", 300, 400)


def trained(splits: tuple[Split, Split], log: ExperimentLog | None) -> tuple[torch.nn.Module, Fitted]:
    net, (data, val) = fresh_net(), splits
    images = all_images(data, no_views(data))
    with log or nullcontext():
        return net, fit(net, images, val, recipe(epochs=3), width=16, seed=0, validate_every=2, log=log)


def column(fitted: Fitted, name: str) -> list[tuple[int, Any]]:
    rows = [(epoch, row[name]) for epoch, row in enumerate(fitted.history, 1) if name in row]
    return [(epoch, pytest.approx(value)) for epoch, value in rows]


def test_tensorboard_has_every_row_and_the_network_is_what_it_is_without(splits: tuple[Split, Split]) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    net, fitted = trained(splits, ExperimentLog("tensorboard", "base", {"recipe": {"epochs": 3}}))
    (run,) = (LOGS / "tensorboard" / "base").iterdir()
    events = EventAccumulator(str(run))
    events.Reload()
    for name in ("train/loss", "val/nll", "val/accuracy"):
        assert [(event.step, event.value) for event in events.Scalars(name)] == column(fitted, name)
    assert len(column(fitted, "train/loss")) == 3 and len(column(fitted, "val/nll")) == 2
    assert "epochs: 3" in (run / "hparams.yaml").read_text()
    other, _ = trained(splits, None)
    for left, right in zip(net.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(left, right)


def test_mlflow_has_every_row_in_a_local_store(splits: tuple[Split, Split]) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    _, fitted = trained(splits, ExperimentLog("mlflow", "base", {"recipe": {"epochs": 3}}))
    run, found = of_mlflow()
    assert run.info.run_name == "base" and run.info.status == "FINISHED" and run.data.params["recipe/epochs"] == "3"
    for name, metrics in found.items():
        assert [(metric.step, metric.value) for metric in metrics] == column(fitted, name)


def test_a_training_that_fails_is_a_failed_run(splits: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")

    def stop(*_: object) -> None:
        raise ValueError("stopped")

    monkeypatch.setattr(Training, "on_train_epoch_end", stop)
    with pytest.raises(ValueError, match="stopped"):
        trained(splits, ExperimentLog("mlflow", "base", {"recipe": {"epochs": 3}}))
    assert of_mlflow()[0].info.status == "FAILED"


def of_mlflow() -> tuple[Any, dict[str, Any]]:
    """The newest run in the local store, which MLflow keeps open from test to test, and the history of two metrics."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{LOGS / 'mlflow.db'}")
        run, *_ = client.search_runs([client.get_experiment_by_name("isoflop").experiment_id])
        found = {name: client.get_metric_history(run.info.run_id, name) for name in ("train/loss", "val/nll")}
    return run, found


def test_wandb_keeps_an_offline_run(splits: tuple[Split, Split]) -> None:
    pytest.importorskip("wandb")
    _, fitted = trained(splits, ExperimentLog("wandb", "base", {"recipe": {"epochs": 3}}))
    (file,) = (LOGS / "wandb").glob("offline-run-*/*.wandb")
    wanted = {
        text.encode() for row in fitted.history for name, value in row.items() for text in (name, json.dumps(value))
    }
    until = time.monotonic() + 30  # W&B's own process writes the file, at times after `finish` has returned
    # records of JSON, whose reader is no part of the package
    while (lacking := {text for text in wanted if text not in file.read_bytes()}) and time.monotonic() < until:
        time.sleep(0.1)
    assert lacking == set()


@pytest.mark.parametrize("name", ["tensorboard", "mlflow", "wandb"])
def test_a_logger_that_is_not_installed_is_one_clear_line(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    said = rf"train\.logger: got '{name}', which needs .*; fix: `pip install 'isoflop\[{name}\]'`"
    with pytest.raises(UserError, match=said) as e:
        ExperimentLog(name, "base", {})
    assert "\n" not in str(e.value) and not LOGS.exists()


def test_a_logger_that_fails_is_one_line_without_the_password_of_its_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ConnectionError("http://ada:s3cret@mlflow:5000/api: 401\nUnauthorized")

    monkeypatch.setattr(experiment_loggers, "_opened", refuse)
    said = r"train\.logger: got 'tensorboard', which fails: http://…@mlflow:5000/api"
    with pytest.raises(UserError, match=said) as e:
        ExperimentLog("tensorboard", "base", {})
    assert "\n" not in str(e.value) and "s3cret" not in str(e.value) and e.value.__suppress_context__
