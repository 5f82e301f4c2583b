"""Results that are older than their parameters, code or data are named with what changed, without starting DVC."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoflop.cli import main as cli
from isoflop.project.declared_stages import declared_stages
from isoflop.project.staleness import causes_in_words, stale_outputs, staleness_warning
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.plain_yaml import parse
from tests.conftest import ROOT, run_command

GRAPH = """\
vars:
  - path: {raw: data/raw, models: models}
stages:
  download:
    cmd: python -m stages.download --raw ${path.raw}
    params: [data, code.yaml: [stages.download]]
    deps:
      - ${data.path}
    outs:
      - ${path.raw}
  train:
    matrix:
      width: ${train.widths}
    cmd: >-
      python -m stages.train --width ${item.width}
      --model ${path.models}/${item.width}
    params: [train.epochs, train.delta, code.yaml: [stages.train]]
    deps:
      - ${path.raw}
    outs:
      - ${path.models}/${item.width}
  ship:
    cmd: python -m stages.ship
    params: [ship, code.yaml: [stages.ship]]
    deps:
      - ${path.models}
    outs:
      - ship/model.onnx
    metrics:
      - metrics/shipped.json
  scaling:
    cmd: python -m stages.scaling
    params: [code.yaml: [stages.scaling]]
    deps:
      - ${path.raw}
    outs:
      - scaling/law.json
"""
PARAMS: dict[str, Any] = {
    "data": {"path": "photos"},
    "train": {"widths": [8, 16], "epochs": 3, "delta": 1e-05},
    "ship": {"max_drop": 0.01},
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project in which everything ran."""
    folder = tmp_path / "project"
    for file in ("photos/cat/1.png", "photos/dog/2.png", "data/raw/images", "models/8", "models/16",
                 "ship/model.onnx", "metrics/shipped.json", "scaling/law.json"):  # fmt: skip
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / ".dvcignore").write_text("*.partial*\n")
    write(folder / "code.yaml", {"stages": {name: f"digest of {name}" for name in yaml.safe_load(GRAPH)["stages"]}})
    write(folder / "params.yaml", PARAMS)
    lock(folder)
    return folder


def write(file: Path, content: Any) -> None:
    file.write_text(yaml.safe_dump(content, sort_keys=False))


def lock(project: Path) -> None:
    """Write dvc.lock as `dvc repro` would."""
    files = {name: parse((project / name).read_text())[0] for name in ("params.yaml", "code.yaml")}

    def values(params: tuple[tuple[str, str], ...]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for file, key in params:
            value = files[file]
            for part in key.split("."):
                value = value[part]
            found.setdefault(file, {})[key] = value
        return found

    stages = {
        name: {
            "cmd": stage.cmd,
            "deps": [{"path": dep, "md5": dvc_md5(project / dep), "size": size(project / dep)} for dep in stage.deps],
            "params": values(stage.params),
            "outs": [{"path": out, "md5": dvc_md5(project / out)} for out in stage.outs],
        }
        for name, stage in declared_stages(parse(GRAPH)[0], files["params.yaml"]).items()
    }
    write(project / "dvc.lock", {"schema": "2.0", "stages": stages})


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def set_params(project: Path, **sections: dict[str, Any]) -> None:
    write(project / "params.yaml", {name: values | sections.get(name, {}) for name, values in PARAMS.items()})


def warning(project: Path, path: str = "ship/model.onnx") -> str:
    return (staleness_warning(project / path) or "").removeprefix(os.path.relpath(project) + "/")


def test_what_is_up_to_date_gets_no_warning(project: Path) -> None:
    assert stale_outputs(project) == {}
    (project / "photos" / ".partial1").touch()  # DVC ignores it
    (project / "models" / "4").touch()
    (project / "models" / "4").unlink()
    assert stale_outputs(project) == {} and not warning(project)
    assert not staleness_warning(project.parent / "release" / "model.onnx")


def test_the_warning_names_the_parameters(project: Path) -> None:
    set_params(project, train={"epochs": 4})
    assert warning(project) == "ship/ is older than params.yaml (train.epochs): `dvc repro` updates it"
    assert warning(project, "ship") == warning(project)
    assert not warning(project, "scaling/law.json"), "its stages do not read it"
    set_params(project, train={"epochs": 4}, ship={"max_drop": 0.02})
    assert "params.yaml (train.epochs, ship.max_drop)" in warning(project)
    (project / "params.yaml").write_text((project / "params.yaml").read_text() + " x: [")
    assert not warning(project), "`isoflop check` names the mistake"


def test_code_and_images_are_named(project: Path) -> None:
    code = (project / "code.yaml").read_text()
    (project / "code.yaml").write_text(code.replace("digest of train", "another"))
    assert warning(project) == "ship/ is older than the code of train: `dvc repro` updates it"
    (project / "code.yaml").write_text(code)
    assert not warning(project)
    (project / "photos" / "cat" / "1.png").rename(project / "photos" / "dog" / "1.png")  # only its label changes
    assert warning(project) == "ship/ is older than photos: `dvc repro` updates it"
    assert "scaling/ is older than photos" in warning(project, "scaling")


def test_an_experiment_that_ran_partly_is_named_by_what_it_wrote(project: Path) -> None:
    """As after `dvc exp run -S train.epochs=4 train`."""
    set_params(project, train={"epochs": 4})
    (project / "models" / "8").write_text("trained longer")
    before = yaml.safe_load((project / "dvc.lock").read_text())
    lock(project)
    after = yaml.safe_load((project / "dvc.lock").read_text())
    after["stages"]["ship"] = before["stages"]["ship"]
    write(project / "dvc.lock", after)
    assert warning(project) == "ship/ is older than models: `dvc repro` updates it"


def test_another_command_or_parameter_of_a_stage_counts(project: Path) -> None:
    (project / "dvc.yaml").write_text(GRAPH.replace("stages.ship\n", "stages.ship --fast\n"))
    assert "ship/ is older than dvc.yaml (stage ship)" in warning(project)
    (project / "dvc.yaml").write_text(GRAPH.replace("[ship, ", "[ship, train.epochs, "))
    assert "ship/ is older than dvc.yaml (stage ship)" in warning(project)
    (project / "dvc.yaml").write_text(
        GRAPH.replace("[ship, ", "[data, ").replace("ship:\n", "ship:\n    frozen: true\n")
    )
    assert not warning(project)


def test_stages_of_before_and_clones_in_part_say_nothing(project: Path) -> None:
    set_params(project, train={"widths": [8]})  # `ship` does not read the widths
    (project / "dvc.lock").write_text((project / "dvc.lock").read_text().replace("--width 16", "--width 017"))
    assert not warning(project)
    shutil.rmtree(project / "models")
    shutil.rmtree(project / "photos")
    assert stale_outputs(project) == {}
    (project / "dvc.yaml").write_text(GRAPH.replace("${train.widths}", "${train.none}"))  # DVC reports it
    assert not warning(project, "scaling")


def test_large_images_are_read_once_and_compared_by_size_until_then(project: Path) -> None:
    (project / "photos" / "cat" / "1.png").rename(project / "photos" / "dog" / "1.png")
    assert stale_outputs(project, most_bytes=8) == {}
    (project / "photos" / "dog" / "3.png").write_text("3")
    assert {one.stage for one in stale_outputs(project, most_bytes=8).values()} > {"download"}
    (project / "photos" / "dog" / "3.png").unlink()
    assert stale_outputs(project)
    assert causes_in_words(stale_outputs(project, most_bytes=8).values()) == "photos"
    (project / ".isoflop" / "hashes.json").write_text("[]")
    assert stale_outputs(project)


@pytest.mark.parametrize(
    ("words", "output"),
    [(["predict", "ship/model.onnx", "photos"], "ship"), (["serve", "ship/model.onnx"], "ship"),
     (["demo", "ship"], "ship"), (["plan", "--flops", "1e12"], "scaling"),
     pytest.param(["compress", "ship/model.onnx", "--calibration", "photos", "--out", "small"], "ship",
                  marks=pytest.mark.nightly)],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)  # fmt: skip
def test_each_command_that_reads_an_output_warns(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str], output: str
) -> None:
    monkeypatch.chdir(project)
    cli.main(words)
    assert "warning: " not in capsys.readouterr().err
    set_params(project, data={"path": "photos", "url": "x"})
    cli.main(words)
    shown = capsys.readouterr()
    first = f"warning: {output}/ is older than params.yaml (data.url): `dvc repro` updates it"
    assert shown.err.splitlines()[0] == first and "warning" not in shown.out


def test_the_stages_are_those_that_dvc_finds(tmp_path: Path) -> None:
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    for name in ("dvc.yaml", "code.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    shutil.copy(ROOT / "presets" / "smoke.yaml", tmp_path / "params.yaml")
    run_command("dvc", "init", "--no-scm", "-q", cwd=tmp_path)
    graph, params = (parse((tmp_path / name).read_text())[0] for name in ("dvc.yaml", "params.yaml"))
    found = declared_stages(graph, params)
    with Repo(str(tmp_path)) as repo:
        stages = {stage.addressing.rsplit(":", 1)[-1]: stage for stage in repo.index.stages}
        assert set(found) == set(stages)
        for name, stage in stages.items():
            files = [dep for dep in stage.deps if not isinstance(dep, ParamsDependency)]
            pairs = {(dep.def_path, key) for dep in stage.deps if dep not in files for key in dep.params}
            assert found[name].cmd == stage.cmd and set(found[name].params) == pairs
            assert set(found[name].deps) == {dep.def_path for dep in files}
            assert set(found[name].outs) == {out.def_path for out in stage.outs}


@pytest.mark.nightly
def test_no_command_starts_dvc_to_look() -> None:
    code = "import sys, isoflop.project.staleness as s; from pathlib import Path; s.stale_outputs(Path()); "
    done = run_command(sys.executable, "-c", f"{code} print('dvc' in sys.modules)", cwd=ROOT)
    assert done.stdout.split() == ["False"]
