"""Which code a stage runs, found by its imports, and a digest of it.

``code.yaml`` holds the digest of each stage's code, and DVC reads it as a parameter of that stage: an edit reruns the
stages whose digest it changes. In a checkout the stage ``code`` writes the file; in a project that ``isoflop init``
created, which runs the stages of the installed package, ``isoflop upgrade`` does. A stage refuses to run if its code
does not match code.yaml, because DVC would cache its results under the digest of other code.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from isoflop.runtime.errors import UserError

CODE_FILE = Path("code.yaml")
CODE_STAGE = "code"  # writes CODE_FILE, so it has no digest in it
STAGES_PACKAGE = "isoflop.stages"  # of the installed package; in a checkout the stages are the package `stages`

_INIT = "__init__.py"
_PACKAGE_DATA = (".html", ".css", ".js")  # read by the modules in the same folder, as a template is by its page
_RUNTIME = "src/isoflop/runtime/"
_HEAD = """\
# SHA-256 of the code of each stage. DVC reruns a stage when its digest changes.
"""


@dataclass(frozen=True)
class Code:
    """Where the code is: ``src/isoflop`` and ``stages`` in a checkout; in an installed wheel ``isoflop`` and
    ``isoflop/stages``. ``name`` returns the path that a file has in a checkout, also for a wheel."""

    package: Path  # isoflop
    stages: Path

    def file(self, module: str) -> Path | None:
        """Return the file of a module ``isoflop.…`` or ``stages.…``; None if there is none."""
        first, *rest = module.split(".")
        base = {"isoflop": self.package, "stages": self.stages}[first].joinpath(*rest)
        candidates = ([base.with_suffix(".py")] if rest else []) + [base / "__init__.py"]
        return next((path for path in candidates if path.is_file()), None)

    def name(self, file: Path) -> str:
        """Return the name of a file in a checkout: src/isoflop/data/arrays.py or stages/train.py, for example."""
        if file.is_relative_to(self.stages):
            return f"stages/{file.relative_to(self.stages).as_posix()}"
        return f"src/isoflop/{file.relative_to(self.package).as_posix()}"

    def stage_names(self) -> list[str]:
        """Return the names of all stages that have a digest, sorted."""
        return sorted(file.stem for file in self.stages.glob("[!_]*.py") if file.stem != CODE_STAGE)


def checkout(root: Path) -> Code:
    """Return the code of the checkout at ``root``."""
    return Code(root / "src" / "isoflop", root / "stages")


def installed() -> Code:
    """Return the code that this process runs: of an installed wheel, or of the checkout of an editable install."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "stages"
    return Code(package, inside) if inside.is_dir() else checkout(package.parents[1])


def is_runtime(name: str) -> bool:
    """Return whether a file belongs to no stage's code: it is in ``runtime``, which every stage runs through and
    which cannot change a result, or it is an ``__init__``, from which nothing is imported."""
    return name.startswith(_RUNTIME) or name.endswith("/__init__.py")


def import_closure(file: Path, code: Code) -> dict[str, Path]:
    """Return all files of ``code`` that ``file`` imports, directly or indirectly, and itself, by name.

    Imports inside functions count. Imports under ``if TYPE_CHECKING:`` do not, because they never run.

    Raises:
        UserError: a file does not parse, or has an import that a digest cannot follow.
    """
    found: dict[str, Path] = {}
    waiting, strays = [file], _modules_at_the_root(code)
    while waiting:
        current = waiting.pop()
        name = code.name(current)
        if name not in found:
            found[name] = current
            if not is_runtime(name):
                waiting += _imported_files(current, name, code, strays)
    return found


def _modules_at_the_root(code: Code) -> set[str]:
    """Return the modules next to ``stages`` in a checkout, which no digest follows, and "" for a relative import."""
    root = code.stages.parent
    if root == code.package:  # an installed wheel
        return {""}
    return {"", *(file.stem for file in root.glob("*.py")), *(file.parent.name for file in root.glob(f"*/{_INIT}"))}


def _imported_files(file: Path, name: str, code: Code, strays: set[str]) -> list[Path]:
    try:
        modules = _imported_modules(file.read_bytes())
    except SyntaxError as error:
        raise UserError(f"{name}: line {error.lineno}: {error.msg}") from None
    files = {module: code.file(module) for module in modules if module.partition(".")[0] in ("isoflop", "stages")}
    for module in modules - files.keys():
        if module.partition(".")[0] in strays:
            raise UserError(
                f"{name}: got an import of {module or 'a relative module'}, expected modules of isoflop or stages by "
                "their full name: digests follow no others"
            )
    for module, path in files.items():
        if path is None and module.count(".") == 1:  # a public name of isoflop/__init__.py, not a module
            raise UserError(f"{name}: got an import of {module}, expected an import from the module that defines it")
    return [path for path in files.values() if path]


def code_of_stage(stage: str, code: Code) -> dict[str, Path]:
    """Return the files whose content decides what ``stage`` computes, by name: its module first, the others sorted."""
    own = f"stages/{stage}.py"
    closure = import_closure(code.stages / f"{stage}.py", code)
    folders = {file.parent for name, file in closure.items() if not is_runtime(name)}
    data = {code.name(file): file for folder in folders for file in folder.iterdir() if file.suffix in _PACKAGE_DATA}
    needed = closure | data
    others = sorted(name for name in needed.keys() - {own} if not is_runtime(name))
    return {name: needed[name] for name in [own, *others]}


def code_digest(stage: str, code: Code) -> str:
    """Return SHA-256 over the names and contents of ``code_of_stage``: equal for a wheel and its checkout."""
    digest = hashlib.sha256()
    for name, file in code_of_stage(stage, code).items():
        digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def code_text(code: Code, **facts: str) -> str:
    """Return the content of code.yaml: ``facts``, then the digest of each stage of ``code``."""
    content: Mapping[str, Any] = {**facts, "stages": {stage: code_digest(stage, code) for stage in code.stage_names()}}
    return _HEAD + yaml.safe_dump(content, sort_keys=False)


def check_own_code(project: Path = Path()) -> None:
    """Check that the running stage's code is the code that code.yaml records.

    Raises:
        UserError: it is not, or code.yaml does not have it.
    """
    stage = running_stage()
    if stage and stage != CODE_STAGE and (stale := stale_stages(project, [stage])):
        raise UserError(stale_message(stale, project))


def running_stage() -> str | None:
    """Return the stage that this process runs as ``python -m``; None if it runs none."""
    package, _, stage = (getattr(sys.modules["__main__"].__spec__, "name", None) or "").rpartition(".")
    return stage if package in (STAGES_PACKAGE, "stages") else None


def stale_stages(project: Path, stages: list[str] | None = None) -> list[str]:
    """Return those of ``stages`` (default: all) whose code is not the code that code.yaml of ``project`` records.

    Raises:
        UserError: code.yaml is missing or not readable.
    """
    code = installed()
    recorded = recorded_code(project).get("stages")
    known: Mapping[str, Any] = recorded if isinstance(recorded, dict) else {}
    return [stage for stage in stages or code.stage_names() if known.get(stage) != code_digest(stage, code)]


def stale_message(stages: list[str], project: Path) -> str:
    """Return one line for the user."""
    if has_own_stages(project):
        return (
            f"{CODE_FILE}: the code of {', '.join(stages)} changed after it was written; fix: `dvc repro` updates it "
            "and reruns the stages that changed"
        )
    return (
        f"{CODE_FILE}: written for other code of {', '.join(stages)} than isoflop {version()} has; fix: "
        f"`isoflop upgrade && dvc repro` reruns the stages that changed, or install the version that {CODE_FILE} names"
    )


def has_own_stages(project: Path) -> bool:
    """Return whether ``project`` is a checkout that runs its own stages."""
    return (project / "stages").is_dir()


def recorded_code(project: Path) -> dict[str, Any]:
    """Return the content of code.yaml.

    Raises:
        UserError: the file is missing, or is not a YAML mapping.
    """
    file = project / CODE_FILE
    writer = f"dvc repro {CODE_STAGE}" if has_own_stages(project) else "isoflop upgrade"
    try:
        content = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; fix: `{writer}` writes it") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file}: got no YAML mapping, expected digests by stage; fix: `{writer}` writes it")
    return content


def project_code_sha256(project: Path) -> str:
    """Return one SHA-256 for the code of all stages that code.yaml of ``project`` records.

    Raises:
        UserError: code.yaml is missing or not readable.
    """
    return hashlib.sha256(json.dumps(recorded_code(project).get("stages"), sort_keys=True).encode()).hexdigest()


def version() -> str:
    """Return the version of the installed package."""
    return metadata.version("isoflop")


@functools.lru_cache(maxsize=512)
def _imported_modules(source: bytes) -> frozenset[str]:
    """Return the modules that a source imports, their packages included; "" for a relative import."""
    modules: set[str] = set()
    for node in _running_nodes(ast.parse(source)):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level:
            modules.add("")
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    parts = [module.split(".") for module in modules]
    return frozenset(".".join(names[:length]) for names in parts for length in range(1, len(names) + 1))


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running_nodes(other)
        else:
            yield child
            yield from _running_nodes(child)
