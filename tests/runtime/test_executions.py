"""What ran here is known again by what it wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isoflop.cli import main as cli
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.executions import executions, log_execution


def test_the_md5_is_that_of_dvc(smoke: Path) -> None:
    from isoflop.runtime.params import read_params

    outs = [out for stage in read_params(smoke / "dvc.lock")["stages"].values() for out in stage["outs"]]
    assert any(out["md5"].endswith(".dir") for out in outs)
    for out in outs:
        assert dvc_md5(smoke / out["path"]) == out["md5"], out["path"]


def test_large_outputs_are_not_hashed_again_and_a_cut_line_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("large").mkdir()
    (Path("large") / "file").write_bytes(bytes(99))
    Path("small").write_text("x")
    log_execution([Path("large"), Path("small")], 2.5)
    with (tmp_path / ".isoflop" / "executions.jsonl").open("a") as log:
        log.write('{"output": "lar\n')
    both = {name: dvc_md5(Path(name)) for name in ("large", "small")}
    monkeypatch.setattr("isoflop.runtime.executions._LARGE", 50)
    log_execution([Path("large"), Path("small")], 3.5)
    assert executions(tmp_path) == [(both, 2.5), ({"small": both["small"]}, 3.5)]


def test_a_workspace_that_cannot_be_written_costs_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path(".isoflop").write_text("a file where the folder should be")
    Path("out").touch()
    log_execution([Path("out")], 1.0)
    assert executions(tmp_path / "elsewhere") == []


@pytest.mark.parametrize(
    ("lock", "said"),
    [
        (None, "dvc.lock: not found; fix: `dvc repro` writes it"),
        ("schema: '2.0'\n", "dvc.lock: got no stages, expected those that `dvc repro` ran"),
        ("<<<<<<< HEAD\nstages: {\n", "dvc.lock:2: not valid YAML"),
    ],
)
def test_savings_of_a_project_that_never_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], lock: str | None, said: str
) -> None:
    (tmp_path / "dvc.yaml").touch()
    if lock is not None:
        (tmp_path / "dvc.lock").write_text(lock)
    monkeypatch.chdir(tmp_path)
    assert cli.main(["savings"]) == 1
    assert said in capsys.readouterr().err


def test_savings_of_what_ran_here(
    smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(smoke)
    assert cli.main(["savings", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["restored"] == 0 and found["ran_here"] == len(found["stages"])
    trained = {stage["stage"] for stage in found["stages"] if stage["training_flops"]}
    assert {"train", "sweep@8"} < trained and not {"prepare", "ship"} & trained
