"""Stages as Ray tasks: on this machine, and on a cluster of real nodes of which one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli import main as cli
from isoflop.project.graph import read_graph
from isoflop.runtime.params import read_params
from tests.clones import executed
from tests.conftest import commit, copy_project, run_command

STUDY = ("sweep@4", "sweep@6", "sweep@8", "sweep@12")


def entries(clone: Path) -> dict[str, Any]:
    return dict(read_params(clone / "dvc.lock")["stages"])


def test_the_order_and_what_each_stage_waits_for(smoke: Path) -> None:
    parents = read_graph(smoke, ["scaling"]).parents
    assert parents["download"] == [] and parents["scaling"] == sorted(STUDY)
    assert list(parents)[:4] == ["download", "weights", "prepare", "augment"] and list(parents)[-1] == "scaling"
    assert list(parents)[4:-1] == list(reversed(STUDY)), "the longest first"
    assert set(STUDY) < set(read_graph(smoke, ["sweep"]).parents), "as `dvc repro sweep` understands it"
    whole = read_graph(smoke)
    assert set(whole.parents) == set(entries(smoke)) - {"code"} and whole.roots == [
        "download",
        "weights",
        "onnxruntime_web",
    ]
    timed, after = {"benchmark", "formats"}, {"ship", "demo", "report", "forecast", "score", "study"}
    assert whole.alone == timed | after and whole.given == {"data/images"}


def test_a_dvc_file_is_a_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clone = copy_project(tmp_path / "clone")
    (clone / "photos").mkdir()
    (clone / "photos" / "a.txt").write_text("a")
    run_command("dvc", "add", "photos", cwd=clone)
    monkeypatch.chdir(tmp_path)  # names do not depend on where one stands
    assert read_graph(clone).roots == ["download", "weights", "onnxruntime_web", "photos.dvc"]


def test_what_ran_at_the_same_time_is_what_ran_in_turn(smoke: Path, tmp_path: Path) -> None:
    """The same bytes, in dvc.lock and the workspace; then `dvc repro` executes nothing."""
    clone = copy_project(tmp_path / "clone")
    targets = ("sweep@8", "sweep@12", "evaluate")
    said = run_command("isoflop", "launch", "--jobs", "2", *targets, cwd=clone).stdout
    assert all(f"{stage}: ran in" in said for stage in (*targets, "train"))
    ran, serial = entries(clone), entries(smoke)
    unlike = {stage for stage in ran if outputs(ran[stage]) != outputs(serial[stage])}
    assert not unlike and len(ran) == 9
    assert executed(run_command("dvc", "repro", *targets, cwd=clone).stdout) == set()
    assert (clone / "runs" / "width-8.json").read_bytes() == (smoke / "runs" / "width-8.json").read_bytes()
    tracked = run_command("git", "status", "--porcelain", cwd=clone).stdout.splitlines()
    assert not [line for line in tracked if "runs/width" in line], "outputs are for DVC, not for git"
    paid = json.loads(run_command("isoflop", "savings", "--json", cwd=clone).stdout)
    assert paid["ran_here"] == 8 and paid["restored"] == 0, "what a task ran is paid for here"
    again = run_command("isoflop", "launch", "sweep@8", cwd=clone).stdout
    assert "ran in" not in again and "sweep@8: restored in" in again


def outputs(entry: dict[str, Any]) -> dict[str, str]:
    leaf = ("metrics/throughput.json",)  # how fast it was, which is never the same
    return {out["path"]: out["md5"] for out in entry["outs"] if out["path"] not in leaf}


def test_a_stage_that_fails_is_shown_and_what_went_well_is_kept(tmp_path: Path) -> None:
    clone = copy_project(tmp_path / "clone")
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("learning_rate: 0.005", "learning_rate: 1.0e+30", 1))
    done = run_command("isoflop", "launch", "train", "evaluate", cwd=clone, check=False)
    assert done.returncode == 1
    assert "train: failed in" in done.stdout and "evaluate: skipped" in done.stdout
    assert "the loss is not finite" in done.stderr
    assert done.stderr.splitlines()[-1] == "error: 2 of 6 stages did not run: train, evaluate"
    assert set(entries(clone)) == {"code", "download", "weights", "prepare", "augment"}
    assert not (clone / "models" / "base").exists()
    assert executed(run_command("dvc", "repro", "augment", cwd=clone).stdout) == set()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["swepe"], "error: dvc.yaml: got no stage swepe, expected one of augment, "),
        (
            ["--address", "127.0.0.1:1", "scaling"],
            "error: .dvc/config: core.remote: not set; a cluster exchanges results through a remote",
        ),
        (["--jobs", "0"], "--jobs: got '0', expected an integer of 1 or more"),
        (["--cpus", "4000", "scaling"], "error: --cpus, --gpus: got 4000 and 0"),
        (["--address", "127.0.0.1:1", "--jobs", "2"], "error: --jobs: got it together with --address"),
        (["--gpus", "1.5"], "--gpus: got '1.5', expected a fraction from 0 to 1 or an integer"),
        (["--gpus", "-1"], "--gpus: got '-1', expected a fraction from 0 to 1 or an integer"),
    ],
)
def test_a_mistake_is_one_line(smoke: Path, arguments: list[str], said: str) -> None:
    done = run_command("isoflop", "launch", *arguments, cwd=smoke, check=False)
    assert done.returncode and said in done.stderr and "Traceback" not in done.stderr


def test_no_cluster_at_the_address(tmp_path: Path) -> None:
    clone = copy_project(tmp_path / "clone")
    run_command("dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"), cwd=clone)
    done = run_command("isoflop", "launch", "--address", "127.0.0.1:1", "prepare", cwd=clone, check=False)
    assert done.returncode == 1 and "--address: got '127.0.0.1:1', where no Ray cluster answers" in done.stderr


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head that takes no work, and two nodes that take a stage each."""
    from ray.cluster_utils import Cluster

    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    yield started
    started.shutdown()


@pytest.mark.filterwarnings("ignore")  # of Ray itself
def test_a_node_that_dies_costs_its_stage_and_nothing_else(smoke: Path, tmp_path: Path, cluster: Any) -> None:
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    clone, targets = copy_project(tmp_path / "clone"), ("sweep@8", "sweep@12")
    run_command("dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"), cwd=clone)
    commit(clone, "add a remote")
    command = [sys.executable, "-m", "isoflop.cli.main", "launch", "--address", cluster.address, *targets]
    with (tmp_path / "said").open("w") as said:
        process = subprocess.Popen(
            command, cwd=clone, stdout=said, stderr=said, env=os.environ | {"OMP_NUM_THREADS": "1"}
        )
        try:
            wait_for(lambda: "augment: ran" in (tmp_path / "said").read_text(), process)
            time.sleep(4)  # both nodes train a width by now
            cluster.remove_node(nodes[0], allow_graceful=False)
            assert process.wait(600) == 0, (tmp_path / "said").read_text()
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
    ran, serial = entries(clone), entries(smoke)
    assert len(ran) == 7 and all(outputs(ran[stage]) == outputs(serial[stage]) for stage in ran)
    assert executed(run_command("dvc", "repro", *targets, cwd=clone).stdout) == set()


def wait_for(condition: Any, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 300
    while not condition():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.2)


def test_without_ray_the_cure_is_named(smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.chdir(smoke)
    assert cli.main(["launch", "scaling"]) == 1
    assert "error: isoflop launch needs Ray; fix: `pip install 'isoflop[cluster]'`" in capsys.readouterr().err
