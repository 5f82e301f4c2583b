"""Which code a stage runs, found by its imports, and a digest of it.

In a checkout dvc.yaml names these files as dependencies. A project that ``isoflop init`` made runs the stages of the
installed package, whose files are none of its own: there ``code.yaml`` has a digest of them for each stage, which DVC
takes for a parameter. A stage refuses to run if that is not the digest of its code, as its results would be kept in
the cache under the name of other code.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from isoflop.runtime.errors import UserError

CODE_FILE = Path("code.yaml")
STAGES_PACKAGE = "isoflop.stages"  # of the installed package; in a checkout the stages are the package `stages`

_PACKAGE_DATA = (".html", ".css", ".js")  # read by the modules beside them, as a template is by its page
CODE_SUFFIXES = (".py", *_PACKAGE_DATA)

# What every stage runs through and what cannot change a result: an edit here must not retrain the world.
_RUNTIME = "src/isoflop/runtime/"


def is_runtime(name: str) -> bool:
    """Whether the file is no code of any stage: it is in ``runtime``, or an ``__init__``, which holds no code."""
    return name.startswith(_RUNTIME) or name.endswith("/__init__.py")


@dataclass(frozen=True)
class Code:
    """Where the code is: in a checkout ``src/isoflop`` and ``stages``, after the installation of a wheel one in the
    other. Files have the names that they have in a checkout, wherever they are."""

    package: Path  # isoflop
    stages: Path

    def file(self, module: str) -> Path | None:
        """The file of a module ``isoflop.…`` or ``stages.…``; None where there is none."""
        first, *rest = module.split(".")
        base = {"isoflop": self.package, "stages": self.stages}[first].joinpath(*rest)
        candidates = ([base.with_suffix(".py")] if rest else []) + [base / "__init__.py"]
        return next((path for path in candidates if path.is_file()), None)

    def name(self, file: Path) -> str:
        """src/isoflop/data/arrays.py or stages/train.py, say."""
        if file.is_relative_to(self.stages):
            return f"stages/{file.relative_to(self.stages).as_posix()}"
        return f"src/isoflop/{file.relative_to(self.package).as_posix()}"

    def stage_names(self) -> list[str]:
        return sorted(file.stem for file in self.stages.glob("[!_]*.py"))


def checkout(root: Path) -> Code:
    """The code of the checkout at ``root``."""
    return Code(root / "src" / "isoflop", root / "stages")


def installed() -> Code:
    """The code that this process runs: of an installed wheel, or of the checkout that an editable one points to."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "stages"
    return Code(package, inside) if inside.is_dir() else checkout(package.parents[1])


def import_closure(file: Path, code: Code) -> dict[str, Path]:
    """All files of ``code`` that ``file`` imports, however indirectly, itself included, by name.

    Imports inside functions count; those under ``if TYPE_CHECKING:`` do not, as they never run.
    """
    found: dict[str, Path] = {}
    waiting = [file]
    while waiting:
        current = waiting.pop()
        name = code.name(current)
        if name not in found:
            found[name] = current
            if not is_runtime(name):
                waiting += _imported_files(current, code)
    return found


def code_of_stage(stage: str, code: Code) -> dict[str, Path]:
    """The files whose content decides what ``stage`` computes, by name: its own module first, the others sorted."""
    own = f"stages/{stage}.py"
    closure = import_closure(code.stages / f"{stage}.py", code)
    folders = {file.parent for file in closure.values()}
    beside = {code.name(file): file for folder in folders for file in folder.iterdir() if file.suffix in _PACKAGE_DATA}
    needed = closure | beside
    others = sorted(name for name in needed.keys() - {own} if not is_runtime(name))
    return {name: needed[name] for name in [own, *others]}


def code_digest(stage: str, code: Code) -> str:
    """SHA-256 over the names and contents of ``code_of_stage``: the same for a wheel and for the checkout it is of."""
    digest = hashlib.sha256()
    for name, file in code_of_stage(stage, code).items():
        digest.update(f"{name} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()


def check_own_code(project: Path = Path()) -> None:
    """For a stage that runs as ``python -m isoflop.stages.NAME``: is its code what ``code.yaml`` says?

    Raises:
        UserError: it is not, or code.yaml does not say.
    """
    package, _, stage = (getattr(sys.modules["__main__"].__spec__, "name", None) or "").rpartition(".")
    if package == STAGES_PACKAGE and (wrong := stale_stages(project, [stage])):
        raise UserError(said_of_stale(wrong))


def stale_stages(project: Path, stages: list[str] | None = None) -> list[str]:
    """Those of ``stages`` (all installed ones) whose installed code is not what code.yaml of ``project`` says.

    Raises:
        UserError: there is no code.yaml, or it is not readable.
    """
    code = installed()
    recorded = recorded_code(project).get("stages")
    known: Mapping[str, Any] = recorded if isinstance(recorded, dict) else {}
    return [stage for stage in stages or code.stage_names() if known.get(stage) != code_digest(stage, code)]


def said_of_stale(stages: list[str]) -> str:
    """One line for the user."""
    return (
        f"{CODE_FILE}: another code of {', '.join(stages)} than the installed isoflop {version()} has; `isoflop "
        "upgrade`, then `dvc repro`, runs again what changed (or install the version that code.yaml names)"
    )


def recorded_code(project: Path) -> dict[str, Any]:
    """What code.yaml says.

    Raises:
        UserError: there is none, or it is no YAML mapping.
    """
    file = project / CODE_FILE
    try:
        content = yaml.load(file.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; `isoflop upgrade` writes it") from None
    except (yaml.YAMLError, UnicodeDecodeError):
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file}: found no YAML mapping, expected what `isoflop upgrade` writes")
    return content


def version() -> str:
    """Of the installed package."""
    return metadata.version("isoflop")


def _imported_files(file: Path, code: Code) -> list[Path]:
    modules: set[str] = set()
    for node in _running_nodes(ast.parse(file.read_bytes())):
        if isinstance(node, ast.Import):
            modules.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            modules.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    ours = [module.split(".") for module in modules if module.split(".")[0] in ("isoflop", "stages")]
    prefixes = {".".join(parts[:length]) for parts in ours for length in range(1, len(parts) + 1)}
    return [path for module in sorted(prefixes) if (path := code.file(module))]


def _running_nodes(node: ast.AST) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for other in child.orelse:
                yield other
                yield from _running_nodes(other)
        else:
            yield child
            yield from _running_nodes(child)
