"""Nothing that a cache, a remote or a user hands over can run code: how the sources read files, and what git holds."""

from __future__ import annotations

import ast
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest

from isoflop.models.model_files import load_model
from isoflop.runtime.errors import UserError
from tests.conftest import ROOT, run_command

RUNS_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}  # modules whose files can
NEVER = {"eval", "exec", "os.system", "os.popen", "yaml.unsafe_load", "yaml.full_load"}


def sources() -> list[Path]:
    return [file for folder in ("src", "stages") for file in (ROOT / folder).rglob("*.py")]


def unsafe(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from (f"{file}:{node.lineno}: {name}" for name in names if name.split(".")[0] in RUNS_CODE)
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            if called in NEVER or given.get("shell") == "True":
                yield f"{file}:{node.lineno}: {called}"
            if called in ("np.load", "numpy.load") and given.get("allow_pickle") != "False":
                yield f"{file}:{node.lineno}: {called} without allow_pickle=False"
            if called == "torch.load" and given.get("weights_only") != "True":
                yield f"{file}:{node.lineno}: torch.load without weights_only=True"
            if called == "yaml.load" and "SafeLoader" not in ast.unparse(node):
                yield f"{file}:{node.lineno}: yaml.load without a SafeLoader"
            if "ckpt_path" in given and given.get("weights_only") != "True":
                yield f"{file}:{node.lineno}: a checkpoint without weights_only=True"


def test_no_source_reads_a_file_in_a_way_that_can_run_code() -> None:
    found = [line for file in sources() for line in unsafe(file)]
    assert found == []


@pytest.mark.parametrize(
    "line",
    [
        "import pickle",
        "from joblib import load",
        "np.load(x)",
        "torch.load(x)",
        "yaml.load(x, yaml.Loader)",
        "subprocess.run(x, shell=True)",
        "eval(x)",
        "trainer.fit(m, ckpt_path=x)",
    ],
)
def test_the_scan_sees_what_it_is_for(tmp_path: Path, line: str) -> None:
    (tmp_path / "bad.py").write_text(line)
    assert len(list(unsafe(tmp_path / "bad.py"))) >= 1


class _Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (eval, (f"open({str(self.target)!r}, 'w').close()",))


def test_weights_that_are_a_pickle_are_refused_and_not_run(smoke: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    (model / "model.json").write_bytes((smoke / "models" / "base" / "model.json").read_bytes())
    (model / "weights.safetensors").write_bytes(pickle.dumps(_Bomb(tmp_path / "ran")))
    with pytest.raises(UserError, match="not a readable model"):
        load_model(model)
    assert not (tmp_path / "ran").exists()


def test_git_holds_no_secret_and_no_place_for_one() -> None:
    tracked = run_command("git", "ls-files", cwd=ROOT).stdout.split()
    assert ".dvc/config.local" not in tracked and not [name for name in tracked if name.endswith((".pem", ".key"))]
    config = (ROOT / ".dvc" / "config").read_text()
    assert not [word for word in ("password", "secret", "access_key", "token") if word in config]
    ignored = run_command("git", "check-ignore", ".dvc/config.local", "key.pem", "release/model.onnx", cwd=ROOT)
    assert len(ignored.stdout.split()) == 3
