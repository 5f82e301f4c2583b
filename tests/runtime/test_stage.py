"""A typed function becomes a command whose outputs are whole or absent."""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from isoflop.runtime.signature import In, Out, contract, option
from isoflop.runtime.stage_code import checkout, code_text
from tests.conftest import ROOT, run_command

STAGE = """
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section
from isoflop.runtime.stage import In, Out, run


class Scale(Section):
    factor: int


class Params(Section):
    scale: Scale


def main(params: Params, numbers: list[In], label: str, folder: Out, total: Out) -> None:
    folder.mkdir()
    (folder / "half.txt").write_text("first")
    if label == "user-error":
        raise UserError("numbers.txt: got nothing,\\n expected numbers")
    if label == "bug":
        raise KeyError("bug")
    if label == "memory":
        import torch

        torch.empty(2**60)
    if label == "disk":
        (folder / "filling").write_bytes(bytes(10**6))
    if label == "weights":  # an error of the library's own, no OSError
        import numpy
        from safetensors.numpy import save_file

        save_file({"weight": numpy.zeros(10**6, "float32")}, folder / "weights.safetensors")
    values = [int(file.read_text()) for file in numbers]
    if label.startswith("meanwhile"):  # what somebody else does while the stage runs
        exec(label.removeprefix("meanwhile "))
    if label != "forgets":
        total.write_text(str(sum(values) * params.scale.factor))


if __name__ == "__main__":
    run(main)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "adder.py").write_text(STAGE)
    (tmp_path / "params.yaml").write_text("scale:\n  factor: 10\n")
    (tmp_path / "one.txt").write_text("1")
    (tmp_path / "two.txt").write_text("2")
    return tmp_path


def test_a_stage_of_its_own_writes_its_outputs_whatever_started_it(project: Path) -> None:
    """The second task of a step of Slurm or of torchrun: only `train` on several devices shares its work."""
    ranks = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "LOCAL_RANK": "1", "RANK": "1", "WORLD_SIZE": "2"}
    done = run_stage(project, "sum", "one.txt", "two.txt", **ranks)
    assert done.returncode == 0, done.stderr
    assert (project / "out" / "total.txt").read_text() == "30"


def run_stage(project: Path, label: str, *numbers: str, **env: str) -> subprocess.CompletedProcess[str]:
    options = ["--numbers", *numbers, "--label", label, "--folder", "out/folder", "--total", "out/total.txt"]
    return run_command(sys.executable, "-m", "adder", *options, cwd=project, check=False, **env)


def test_an_error_names_the_key_that_the_variant_sets(tmp_path: Path) -> None:
    (tmp_path / "slimmer.py").write_text(
        "from isoflop.runtime.errors import UserError\n"
        "from isoflop.runtime.params import Section, varied\n"
        "from isoflop.runtime.stage import Out, run\n"
        "class Slim(Section):\n    ratio: float\n    steps: int\n"
        "class Params(Section):\n    slim: Slim = varied(by='variants.slim')\n"
        "def main(params: Params, model: Out) -> None:\n"
        "    raise UserError('params.yaml: slim.ratio: got 0.9, expected less; params.yaml: slim.steps: got 3')\n"
        "if __name__ == '__main__':\n    run(main)\n"
    )
    variants = {"slim": {"slimmest": {"of": "base", "ratio": 0.9}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"slim": {"ratio": 0.5, "steps": 3}, "variants": variants}))
    command = (sys.executable, "-m", "slimmer", "--variant", "slimmest", "--model", "model")
    done = run_command(*command, cwd=tmp_path, check=False)
    assert done.stderr == (
        "error: slimmer@slimmest: params.yaml: variants.slim.slimmest.ratio: got 0.9, expected less; "
        "params.yaml: slim.steps: got 3\n"
    )


def contents(project: Path) -> list[str]:
    return sorted(path.name for path in (project / "out").rglob("*")) if (project / "out").exists() else []


def test_runs_with_parameters_and_paths(project: Path) -> None:
    assert run_stage(project, "ok", "one.txt", "two.txt").returncode == 0
    assert (project / "out/total.txt").read_text() == "30"
    assert contents(project) == ["folder", "half.txt", "total.txt"]


@pytest.mark.parametrize("label", ["user-error", "bug", "forgets"])
def test_a_failure_leaves_nothing_half_written_and_what_was_there_before(project: Path, label: str) -> None:
    run_stage(project, "ok", "one.txt")
    before = {path: path.read_bytes() for path in (project / "out").rglob("*") if path.is_file()}
    done = run_stage(project, label, "two.txt")
    assert done.returncode == 1
    after = {path: path.read_bytes() for path in (project / "out").rglob("*") if path.is_file()}
    if label == "forgets":  # the folder was whole, the total was never written
        after = {path: data for path, data in after.items() if path.name == "total.txt"}
        before = {path: data for path, data in before.items() if path.name == "total.txt"}
    assert after == before
    assert ("Traceback" in done.stderr) == (label != "user-error")


@pytest.mark.parametrize(
    ("done", "changed"),
    [
        ("open('params.yaml', 'a').write('  more: 1\\n')", "params.yaml: scale"),
        ("open('params.yaml', 'w').write('scale:\\n  factor: 11\\n')", "params.yaml: scale"),
        ("open('two.txt', 'w').write('3')", "two.txt"),
        ("import os; os.remove('one.txt')", "one.txt"),
        ("import os; open('new', 'w').write('2'); os.replace('new', 'two.txt')", "two.txt"),
    ],
)
def test_a_result_is_not_kept_if_what_it_was_made_from_changed_meanwhile(
    project: Path, done: str, changed: str
) -> None:
    ended = run_stage(project, f"meanwhile {done}", "one.txt", "two.txt")
    assert ended.stderr == (
        f"error: adder: {changed}: changed while the stage ran, so its result was not kept; fix: `dvc repro` again\n"
    )
    assert ended.returncode == 1 and not contents(project)


@pytest.mark.parametrize("done", ["open('params.yaml', 'a').write('other: 1\\n')", "open('three.txt', 'w').write('')"])
def test_what_the_stage_does_not_read_may_change_meanwhile(project: Path, done: str) -> None:
    ended = run_stage(project, f"meanwhile {done}", "one.txt")
    assert (ended.returncode, ended.stderr) == (0, "") and (project / "out/total.txt").read_text() == "10"


def test_a_users_mistake_is_one_line(project: Path) -> None:
    done = run_stage(project, "user-error", "one.txt")
    assert done.stderr == "error: adder: numbers.txt: got nothing, expected numbers\n"
    done = run_stage(project, "ok", "absent.txt")
    assert done.stderr == "error: adder: absent.txt: No such file or directory\n"
    (project / "params.yaml").write_text("scale:\n  factor: ten\n")
    done = run_stage(project, "ok", "one.txt")
    assert "params.yaml: scale.factor: got 'ten' (string), expected a valid integer" in done.stderr
    assert done.returncode == 1 and done.stderr.count("\n") == 1


def test_an_interrupt_leaves_nothing_and_no_traceback(project: Path) -> None:
    """As Ctrl-C does, while the stage works; the status is that of SIGINT."""
    (project / "interrupted.py").write_text(
        "import os, signal\nfrom isoflop.runtime.stage import Out, run\n\n\ndef main(model: Out) -> None:\n"
        "    model.write_text('half')\n    os.kill(os.getpid(), signal.SIGINT)\n\n\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\nrun(main)\n"
    )
    done = run_command(sys.executable, "interrupted.py", "--model", "whole", cwd=project, check=False)
    assert (done.returncode, done.stderr) == (130, "") and not list(project.glob("*whole*"))


def test_a_wrong_command_line_is_one_line(project: Path) -> None:
    (project / "empty.py").write_text(
        "from isoflop.runtime.stage import Out, run\n\n\ndef main(model: Out) -> None: ...\n\n\nrun(main)\n"
    )
    done = run_command(sys.executable, "empty.py", cwd=project, check=False)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: empty.py: the following arguments are required: --model; ")


def test_too_little_memory_is_one_line(project: Path) -> None:
    done = run_stage(project, "memory", "one.txt")
    said = "error: adder: out of memory; fix: a smaller recipe.batch_size or train.width ("
    assert done.stderr.startswith(said)
    assert done.returncode == 1 and done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
@pytest.mark.parametrize("label", ["disk", "weights"])
def test_a_full_disk_is_one_line_and_leaves_nothing(project: Path, label: str) -> None:
    out = project / "out"
    out.mkdir()
    mounted = run_command("mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", str(out), cwd=project, check=False)
    if mounted.returncode:
        pytest.skip(f"no mounts here: {mounted.stderr}")
    try:
        done = run_stage(project, label, "one.txt")
        said = "error: adder: out/.*: the disk is full; fix: free some space and rerun the command\n"
        assert re.fullmatch(said, done.stderr)
        assert done.returncode == 1 and contents(project) == []
    finally:
        run_command("umount", str(out), cwd=project)


def test_it_does_not_look_at_what_no_stage_knows_and_at_drafts(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    (tmp_path / "stages" / "draft.py").write_text("def main(\n")
    (tmp_path / "stages" / "demo.py").unlink()
    params = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())
    del params["ship"]

    def looked(**changes: object) -> str:
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(params | changes))
        code = "from pathlib import Path; from isoflop.project.checking import *; check_values_of_others(Path())"
        done = run_command("python", "-c", code, cwd=tmp_path, check=False)
        return done.stderr.rpartition("ParamsError: ")[2].strip()

    assert looked(mine={"answer": 42}) == ""
    wrong = looked(quantize=params["quantize"] | {"percentile": "high"})
    assert wrong.startswith("params.yaml: quantize.percentile: got 'high'")
    (tmp_path / "dvc.yaml").touch()
    done = run_command("isoflop", "check", cwd=tmp_path, check=False)
    assert done.returncode == 1 and done.stderr.startswith("error: stages/draft.py: not a stage (SyntaxError: ")


@pytest.mark.parametrize("stage", ["download", "sweep", "train"])
def test_a_stage_that_is_early_or_long_looks_at_the_values_of_all(tmp_path: Path, stage: str) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    (tmp_path / "code.yaml").write_text(code_text(checkout(ROOT)))
    params = (ROOT / "presets" / "smoke.yaml").read_text()
    (tmp_path / "params.yaml").write_text(re.sub("  max_latency_ms: .*", "  max_latency_ms: -3", params))
    kinds = contract(importlib.import_module(f"stages.{stage}").main).items()
    paths = [part for name, kind in kinds if kind in (In, Out, str) for part in (option(name), "4")]
    done = run_command("python", "-m", f"stages.{stage}", *paths, cwd=tmp_path, check=False)
    assert done.returncode == 1 and done.stderr == (
        f"error: {stage}: params.yaml: ship.max_latency_ms: got -3 (integer), expected greater than 0\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["code.yaml", "params.yaml", "stages"]
