"""`isoflop init` from a real wheel: the created project runs, and stages run again when their code changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from isoflop.runtime.stage_code import checkout, code_digest, code_of_stage
from tests.clones import executed
from tests.conftest import ROOT, commit, run_command
from tests.pictures import CLASSES, litter, take_pictures
from tests.staleness import stale
from tests.wheels import built_wheel, run_installed

# The fewest variants: only the base.
BASE_ALONE: dict[str, object] = {
    "distill": {}, "prune": {}, "sparsify": {}, "qat": {}, "candidates": ["base"], "float16": [], "tflite": [],
}  # fmt: skip


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_wheel(tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def made(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project for a messy folder next to it, after `dvc repro`; read-only for the tests."""
    place = tmp_path_factory.mktemp("place")
    litter(take_pictures(place / "meine fotos ä"))
    command = ("isoflop", "init", "project", "--images", "meine fotos ä", "--preset", "smoke", "--image-size", "8")
    (place / "said").write_text(run_installed(package, *command, cwd=place).stdout)
    project = place / "project"
    params = yaml.safe_load((project / "params.yaml").read_text())
    params["variants"] = BASE_ALONE
    (project / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    run_installed(package, "dvc", "repro", cwd=project)
    commit(project, "first results")
    return project


def copied(made: Path, target: Path) -> Path:
    """A copy of ``made`` together with the folder of images next to it."""
    shutil.copytree(made.parent, target, symlinks=True)
    return target / made.name


def test_the_wheel_has_the_graph_the_presets_and_all_code(package: Path) -> None:
    ours = checkout(ROOT)
    code = {name: file for stage in ours.stage_names() for name, file in code_of_stage(stage, ours).items()}
    assert any(file.suffix == ".css" for file in code.values())
    inside = (package / "isoflop" / name.removeprefix("src/isoflop/") for name in code)
    assert not [file for file in inside if not file.is_file()]
    for file in (ROOT / "src" / "isoflop").rglob("*.py"):
        assert (package / file.relative_to(ROOT / "src")).is_file(), "packages in pyproject.toml lacks a folder"
    assert (package / "isoflop-dvc-guard.pth").is_file(), "setup.py did not add the checks of DVC processes"
    carried = package / "isoflop" / "template"
    for file in [
        *(ROOT / ".dvc" / "plots").iterdir(),
        ROOT / "dvc.yaml",
        ROOT / ".gitignore",
        ROOT / ".dvcignore",
        *(ROOT / "presets").glob("*.yaml"),
    ]:
        assert (carried / file.relative_to(ROOT)).read_bytes() == file.read_bytes()
    assert not (carried / "src").exists() and not (package / "stages").exists(), "a name that others use"


def test_a_project_of_ones_own_images_runs_once(made: Path, package: Path) -> None:
    said = (made.parent / "said").read_text()
    assert said.startswith("Found 49 images in 3 classes: 'Bäume' 16, 'c' 17, 'rote Äpfel' 16. No splits, so train")
    assert "1 of 49 sampled images cannot be read and will be dropped, for example 'c/cut off.jpg'" in said
    assert "data.path: ../meine fotos ä (your images stay there" in said
    data = json.loads((made / "metrics" / "data.json").read_text())
    assert data["classes"] == list(CLASSES) and data["channels"] == 3 and data["dropped"]["undecodable"] == 1
    assert (made / "report" / "index.html").is_file()
    assert executed(run_installed(package, "dvc", "repro", cwd=made).stdout) == set()
    lock = yaml.safe_load((made / "dvc.lock").read_text())["stages"]
    recorded = yaml.safe_load((made / "code.yaml").read_text())["stages"]
    for name, stage in lock.items():
        plain = name.partition("@")[0]
        assert stage["params"]["code.yaml"] == {f"stages.{plain}": recorded[plain]}
        assert "python -P -m isoflop.stages." in stage["cmd"]
        assert not [dep for dep in stage.get("deps", []) if dep["path"].endswith(".py")]


def test_a_wheel_and_its_checkout_have_the_same_digests(made: Path) -> None:
    recorded = yaml.safe_load((made / "code.yaml").read_text())["stages"]
    assert recorded == {stage: code_digest(stage, checkout(ROOT)) for stage in recorded}
    assert set(recorded) == set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) - {"code"}


def test_the_commands_work_in_it(made: Path, package: Path, tmp_path: Path) -> None:
    project = copied(made, tmp_path / "place")

    def isoflop(*arguments: str, status: int = 0) -> str:
        done = run_installed(package, "isoflop", *arguments, cwd=project, check=False)
        assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
        return done.stdout + done.stderr

    assert "valid for all" in isoflop("check")
    assert "smoke" in isoflop("preset")
    findings = {finding["about"]: finding for finding in json.loads(isoflop("doctor", "--json"))["findings"]}
    assert findings["code"]["status"] == findings["params"]["status"] == findings["dvc"]["status"] == "ok"
    assert str(package) in findings["code"]["found"]
    assert "base (shipped)" in isoflop("summary")
    assert json.loads(isoflop("savings", "--json"))["restored"] == 0
    picture = next((project.parent / "meine fotos ä" / "c").glob("*.png"))
    assert (
        json.loads(isoflop("predict", "ship/model.onnx", str(picture), "--json"))["predictions"][0]["top"][0]["class"]
        in CLASSES
    )
    assert "prepare: restored in" in isoflop("launch", "--jobs", "1", "prepare")  # although the project was copied
    isoflop("release")
    code = json.loads((project / "release" / "manifest.json").read_text())["code"]["sha256"]
    assert code in (project / "report" / "index.html").read_text()  # both state the same digest of the code
    assert "files match SHA256SUMS" in isoflop("verify", "release")
    assert "data.path: got data/images, which does not exist" in isoflop("preset", "digits") + isoflop(
        "check", status=1
    )


def test_other_code_runs_its_stages_again_and_no_others(made: Path, package: Path, tmp_path: Path) -> None:
    project = copied(made, tmp_path / "place")
    newer = tmp_path / "newer"
    shutil.copytree(package, newer)
    for file in ("scaling/forecasting.py", "runtime/stage.py"):  # code of forecast and score; code around every stage
        with (newer / "isoflop" / file).open("a") as code:
            code.write("\n# another version\n")

    assert executed(run_installed(newer, "dvc", "repro", cwd=project).stdout) == set(), (
        "what is there is of the old code"
    )
    refused = run_installed(newer, "dvc", "repro", "--single-item", "--force", "forecast", cwd=project, check=False)
    assert refused.returncode and "Traceback" not in refused.stderr
    (line,) = [line for line in refused.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith("error: forecast: code.yaml: written for other code of forecast than isoflop ")
    assert "fix: `isoflop upgrade && dvc repro`" in line
    other = tmp_path / "other"  # in this version, the stage also has another option
    shutil.copytree(newer, other)
    stage = other / "isoflop" / "stages" / "forecast.py"
    assert "law: In," in stage.read_text()
    stage.write_text(stage.read_text().replace("law: In,", "law: In, runs: In,"))
    refused = run_installed(other, "dvc", "repro", "--single-item", "--force", "forecast", cwd=project, check=False)
    assert "error: forecast: code.yaml: written for other code of forecast" in refused.stderr
    assert "usage" not in refused.stderr
    findings = json.loads(run_installed(newer, "isoflop", "doctor", "--json", cwd=project, check=False).stdout)
    assert {finding["about"]: finding["status"] for finding in findings["findings"]}["code"] == "fail"
    run_installed(package, "dvc", "checkout", "--force", cwd=project)

    said = run_installed(newer, "isoflop", "upgrade", cwd=project).stdout
    assert said == "changed code: forecast, score; run `dvc repro`\n"
    assert run_command("git", "status", "--porcelain", cwd=project).stdout.split() == ["M", "code.yaml"]
    others = {"forecast", "score", "report", "study"}  # the pages state the digest of the code
    assert stale(project) == others - {"report", "study"}, "which read the whole file"
    assert executed(run_installed(newer, "dvc", "repro", cwd=project).stdout) == others
    assert run_installed(newer, "isoflop", "upgrade", cwd=project).stdout == "up to date\n"


def test_copied_images_go_with_the_project(package: Path, tmp_path: Path) -> None:
    litter(take_pictures(tmp_path / "photos"))
    said = run_installed(package, "isoflop", "init", "project", "--images", "photos", "--copy", cwd=tmp_path).stdout
    assert "data.path: data/images (a copy of your images, tracked by DVC" in said
    project = tmp_path / "project"
    assert len([file for file in (project / "data" / "images").rglob("*") if file.is_file()]) == 49
    shutil.rmtree(tmp_path / "photos")
    run_command("dvc", "remote", "add", "-q", "-d", "team", str(tmp_path / "remote"), cwd=project)
    run_command("dvc", "push", "-q", cwd=project)
    commit(project, "a remote")
    run_command("git", "clone", "-q", str(project), str(tmp_path / "mate"), cwd=tmp_path)
    ran = run_installed(package, "dvc", "repro", "--pull", "prepare", cwd=tmp_path / "mate").stdout
    assert executed(ran) == {"download", "weights", "prepare"}


def test_launch_where_a_dvc_file_is_the_only_root(package: Path, tmp_path: Path) -> None:
    take_pictures(tmp_path / "photos")
    run_installed(package, "isoflop", "init", "project", "--images", "photos", "--copy", cwd=tmp_path)
    said = run_installed(package, "isoflop", "launch", "--jobs", "1", "prepare", cwd=tmp_path / "project").stdout
    assert "download: ran in" in said and "prepare: ran in" in said
    again = run_installed(package, "dvc", "repro", "prepare", cwd=tmp_path / "project").stdout
    assert executed(again) == set()


def test_a_project_without_images_has_those_of_its_preset(package: Path, tmp_path: Path) -> None:
    run_installed(package, "isoflop", "init", "digits", "--preset", "smoke", cwd=tmp_path)
    ran = run_installed(package, "dvc", "repro", "prepare", cwd=tmp_path / "digits").stdout
    assert executed(ran) == {"download", "weights", "prepare"}
    assert json.loads((tmp_path / "digits" / "metrics" / "data.json").read_text())["num_classes"] == 10
