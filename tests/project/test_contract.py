"""dvc.yaml declares exactly what the stages read, write and import."""

from __future__ import annotations

import ast
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from isoflop.project.contract import violations
from isoflop.runtime.errors import UserError
from isoflop.runtime.stage_code import checkout, code_digest, code_of_stage, code_text, import_closure
from tests.conftest import ROOT, run_command


def test_every_stage_declares_what_it_uses() -> None:
    assert violations(ROOT) == []


def test_every_stage_module_is_in_the_graph() -> None:
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    modules = {file.stem for file in (ROOT / "stages").glob("[!_]*.py")}
    assert modules == set(graph)
    for name in modules:
        stage = graph[name].get("do", graph[name])
        assert stage["cmd"].startswith(f"python -m stages.{name} ")


def test_no_other_stage_waits_for_the_study(tmp_path: Path) -> None:
    """DVC runs the stages of the study last, so that neither a long study nor an error in it keeps a model back."""
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "presets" / "smoke.yaml", tmp_path / "params.yaml")
    run_command("dvc", "init", "--no-scm", "-q", cwd=tmp_path)
    with Repo(str(tmp_path)) as repo:
        order = [stage.name.partition("@")[0] for stage in plan_repro(repo.index.graph)]
    last = list(dict.fromkeys(order))[-6:]
    assert set(last) == {"sweep", "formats", "scaling", "forecast", "score", "study"} and last[-1] == "study"
    assert {"train", "ship", "demo", "report"} <= set(order)


def test_importing_the_stages_needs_no_heavy_package() -> None:
    """Bad parameters are reported in under a second only if no stage imports torch and its like to read them."""
    names = sorted(file.stem for file in (ROOT / "stages").glob("[!_]*.py"))
    heavy = ("torch", "pytorch_lightning", "albumentations", "onnxruntime", "onnx", "sklearn", "scipy", "matplotlib")
    code = (
        f"import sys\nfor name in {names}: __import__('stages.' + name)\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    assert run_command(sys.executable, "-c", code, cwd=ROOT).stdout.strip() == "[]"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    return tmp_path


def check(copy: Path, *flags: str) -> str:
    return run_command(sys.executable, "-m", "isoflop.project.contract", *flags, cwd=copy, check=False).stderr


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("[stages.prepare]", "[stages.train]", "params: missing code.yaml:stages.prepare"),
        ("deps:\n      - ${path.raw}\n", "deps:\n", "deps: missing ${path.raw}"),
        ("python -m stages.qat ", "python -m stages.sparsify ", "cmd: got python -m stages.sparsify, expected"),
        ("python -m stages.score ", "python -m stages.score stray ", "got the argument 'stray', expected options"),
        ("    params: [augment, ", "    params: [augment, model, ", "params: needless model"),
        (
            "      - ${path.dropped}\n      - ${path.plots}/dropped",
            "      - ${path.plots}/dropped",
            "outs: missing ${path.dropped}",
        ),
        ("foreach: ${variants.qat}", "foreach: ${variants.prune}", "foreach: missing ${variants.qat}"),
        (" --variant ${key} --of", " --of", "cmd has the options"),
        ("--views ${path.views} --contact", "--vews ${path.views} --contact", "cmd has the options"),
    ],
)
def test_a_wrong_declaration_is_named(copy: Path, old: str, new: str, complaint: str) -> None:
    text = (copy / "dvc.yaml").read_text()
    assert old in text, "the fault is no longer in dvc.yaml's form"
    (copy / "dvc.yaml").write_text(text.replace(old, new))
    assert complaint in check(copy)


def test_fix_writes_the_params(copy: Path) -> None:
    text = (copy / "dvc.yaml").read_text()
    wrong = text.replace("params: [prepare, ", "params: [").replace("      - train.width\n", "")
    (copy / "dvc.yaml").write_text(wrong)
    assert "prepare: params: missing prepare" in check(copy)
    assert check(copy, "--fix") == ""
    assert (copy / "dvc.yaml").read_text() == text


def test_an_edit_changes_the_digests_of_the_stages_that_import_it_alone(copy: Path) -> None:
    code = checkout(copy)
    before = {stage: code_digest(stage, code) for stage in code.stage_names()}

    def edited(file: str, text: str) -> set[str]:
        with (copy / file).open("a") as stream:
            stream.write(text)
        return {stage for stage in before if code_digest(stage, code) != before[stage]}

    assert edited("src/isoflop/runtime/progress.py", "# anything\n") == set()
    assert edited("src/isoflop/training/__init__.py", "# anything\n") == set()
    assert edited("src/isoflop/report/page.css", "/* anything */\n") == {"report", "study"}
    late = "\n\ndef late() -> None:\n    import isoflop.inference.benchmarking\n"
    assert edited("src/isoflop/data/cleaning.py", late) == {"report", "study", "prepare"}
    assert "src/isoflop/inference/benchmarking.py" in code_of_stage("prepare", code)
    trains = {"train", "sweep", "distill", "prune", "sparsify", "qat"}
    assert edited("src/isoflop/training/optimizers.py", "# anything\n") == {"report", "study", "prepare", *trains}


def test_the_digests_in_git_are_those_of_the_code() -> None:
    """`dvc repro code` writes them."""
    assert (ROOT / "code.yaml").read_text() == code_text(checkout(ROOT))


def test_the_closure_follows_functions_and_skips_type_checking(tmp_path: Path) -> None:
    package = tmp_path / "src" / "isoflop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "a.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import isoflop.b\n"
        "def f() -> None:\n    from isoflop import c\n"
    )
    (package / "b.py").write_text("")
    (package / "c.py").write_text("import isoflop.a\n")
    closure = import_closure(package / "a.py", checkout(tmp_path))
    assert set(closure) == {"src/isoflop/__init__.py", "src/isoflop/a.py", "src/isoflop/c.py"}


def test_no_stage_is_stale_for_what_every_stage_runs_through() -> None:
    ours = checkout(ROOT)
    named = {name for stage in ours.stage_names() for name in code_of_stage(stage, ours)}
    assert len(named) > 80 and not [name for name in named if "/runtime/" in name or name.endswith("__init__.py")]


def test_an_init_says_what_its_package_is_and_holds_no_code() -> None:
    """So it is no code of any stage. That of ``scaling`` finds the names of its public API, and no more."""
    inits = [file for file in (ROOT / "src" / "isoflop").glob("*/**/__init__.py") if file.parent.name != "scaling"]
    assert len(inits) > 10
    for file in inits:
        content = ast.parse(file.read_text())
        assert ast.get_docstring(content) and len(content.body) == 1, file


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("from .arrays import Split", "got an import of a relative module"),
        ("from isoflop import read_split", "got an import of isoflop.read_split"),
        ("import helper", "got an import of helper"),
        ("def (", "line "),
    ],
)
def test_what_a_digest_cannot_follow_is_refused(copy: Path, line: str, complaint: str) -> None:
    (copy / "helper.py").touch()
    with (copy / "src/isoflop/data/cleaning.py").open("a") as stream:
        stream.write(f"\n{line}\n")
    with pytest.raises(UserError, match=f"^src/isoflop/data/cleaning.py: {complaint}"):
        code_text(checkout(copy))
