"""Two processes train one network: the same batches, the same learning rate, one set of outputs."""

from __future__ import annotations

import json
import shutil
import socket
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.numpy import load_file

from tests.conftest import run_command


def train(clone: Path, name: str, commands: Sequence[Sequence[str]] = ((sys.executable,),), **changes: Any) -> None:
    """Run the stage ``train`` on an mlp (no batch statistics, which differ between processes) into folder ``name``.

    ``commands`` start it at the same time, each in place of the interpreter.
    """
    params = yaml.safe_load((clone / "params.yaml").read_text())
    params["model"] |= {"family": "mlp", "dropout": 0.0}
    params["recipe"] |= {"epochs": 2, "precision": "fp32", "flip": "random", "shift": 1}
    # smooth in the gradient, as Adam is not: rounding stays small
    params["recipe"] |= {"optimizer": "momentum", "learning_rate": 0.05}
    params["train"] |= {"accelerator": "cpu", **changes}
    (clone / "params.yaml").write_text(yaml.safe_dump(params))
    outputs = [part for out in ("model", "curves", "metrics", "speed") for part in (f"--{out}", f"{name}/{out}")]
    paths = yaml.safe_load((clone / "dvc.yaml").read_text())["vars"][0]["path"]
    inputs = [
        part for name in ("train", "val", "views", "pretrained", "weights") for part in (f"--{name}", paths[name])
    ]
    stage = ("-m", "stages.train", *inputs, *outputs)
    several = len(commands) > 1 or commands[0][0] != sys.executable or "devices" in changes
    real = "1" if several else ""
    with ThreadPoolExecutor() as pool:
        list(pool.map(lambda command: run_command(*command, *stage, cwd=clone, ISOFLOP_TESTS_REAL=real), commands))
    assert not list((clone / name).glob(".*")), "a process left something half-written"
    assert not list((clone / ".isoflop").glob("resume/*"))


@pytest.fixture(scope="module")
def alone(smoke: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clone in which one process has trained."""
    clone = tmp_path_factory.mktemp("alone") / "clone"
    shutil.copytree(smoke, clone, symlinks=True)
    train(clone, "alone")
    return clone


SHARED_OUT = [
    pytest.param({"devices": 2}, marks=pytest.mark.nightly),
    {"accumulate_grad_batches": 3},
    {"devices": 2, "accumulate_grad_batches": 2},
]


@pytest.mark.parametrize("changes", SHARED_OUT, ids=str)
def test_the_result_does_not_depend_on_how_a_batch_is_shared_out(
    alone: Path, clone: Path, changes: dict[str, Any]
) -> None:
    train(clone, "shared", **changes)
    same_training(alone, clone)


@pytest.mark.nightly
def test_torchrun_starts_the_processes_of_a_node(alone: Path, clone: Path) -> None:
    command = ("torchrun", "--standalone", "--nproc-per-node", "2")
    train(clone, "shared", [command], devices=2)
    same_training(alone, clone)


def test_two_nodes_with_a_process_each(alone: Path, clone: Path) -> None:
    """On one machine; the nodes share the folder, as those of a cluster share a file system."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    whole = ("torchrun", "--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", port)
    nodes = [(*whole, "--node-rank", rank) for rank in ("0", "1")]
    train(clone, "shared", nodes, nodes=2)
    same_training(alone, clone)


def same_training(one: Path, several: Path) -> None:
    folders = one / "alone", several / "shared"
    alone, shared = (json.loads((folder / "metrics").read_text()) for folder in folders)
    assert alone["steps"] == shared["steps"] and alone["images_seen"] == shared["images_seen"]
    assert shared["val_nll"] == pytest.approx(alone["val_nll"], rel=0.02)
    assert shared["train_loss"] == pytest.approx(alone["train_loss"], rel=0.02)
    weights = [load_file(folder / "model" / "weights.safetensors") for folder in folders]
    for layer, values in weights[0].items():
        assert weights[1][layer] == pytest.approx(values, abs=0.02)
