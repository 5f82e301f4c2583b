"""The pages are true where a machine can tell: links, anchors, paths, commands, parameters and modules exist."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest
import yaml

import isoflop.cli.main  # noqa: F401  (registers the commands)
from isoflop.cli.app import app
from isoflop.project.params_reference import REFERENCE
from isoflop.scaling.diagnostics import VOIDING, WARNINGS
from tests.conftest import ROOT, run_command
from tests.pages import DOCS, PAGES, blocks, code, prose

NOW = [page for page in PAGES if page.name != "LOG.md"]  # the log is history: what it names may be gone


def identity(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def tracked() -> frozenset[str]:
    """Files of the repository, and their folders."""
    listed = run_command("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    return frozenset(listed) | {folder.as_posix() for name in listed for folder in Path(name).parents}


@cache
def made() -> list[str]:
    """Outputs of dvc.yaml, as patterns."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    names = {f"path.{name}": path for entry in graph["vars"] for name, path in entry["path"].items()}
    outs = [
        str(out)
        for stage in graph["stages"].values()
        for kind in ("outs", "metrics")
        for out in stage.get("do", stage).get(kind, [])
    ]
    return [re.sub(r"\$\{([^}]+)\}", lambda found: names.get(found[1], "*"), out) for out in outs]


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them of headings."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), flags=re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


@pytest.mark.parametrize("page", PAGES, ids=identity)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for target in re.findall(r"\[[^\]]*\]\(([^)\s]+)\)", prose(page.read_text())):
        if not target.startswith(("https://", "http://")):
            path, _, anchor = target.partition("#")
            file = (page.parent / path).resolve() if path else page
            exists = file == ROOT or file.relative_to(ROOT).as_posix() in tracked()
            if not exists or (anchor and anchor not in anchors(file)):
                broken.append(target)
    assert broken == []


def paths(page: Path) -> Iterator[str]:
    """What looks like a file or folder of the project in a page's code."""
    text = prose(page.read_text())
    tops = {name.partition("/")[0] for name in (*tracked(), *made()) if "/" in name} | {"ship", "report"}
    tops -= {".dvc"}  # what DVC puts there is its own
    new = new_files(page)
    for span in re.findall(r"`([^`\n]+)`", text):
        if re.fullmatch(r"[\w.*-]+(/[\w.*{},-]+)+/?", span) and span.partition("/")[0] in tops and span not in new:
            before, _, choices = span.rstrip("/").partition("{")
            inside, _, after = choices.partition("}")
            yield from (f"{before}{choice}{after}" for choice in inside.split(","))
        elif re.fullmatch(r"[\w-]+\.(py|toml|md|lock)", span):
            yield f"**/{span}"


def new_files(page: Path) -> list[str]:
    """Files that the reader of a how-to writes."""
    return re.findall(r"A new file `([^`]+)`", page.read_text())


def exists(path: str) -> bool:
    pattern = re.sub(r"\b[A-Z]{2,}\b(?!\.md)", "*", path)  # NAME stands for any
    if pattern.startswith("**/"):
        return any(Path(name).name == pattern[3:] for name in tracked())
    if any(fnmatch(name, pattern) for name in tracked()):
        return True
    return any(fnmatch(path, out) or fnmatch(path, f"{out}/*") or fnmatch(out, pattern) or out.startswith(f"{path}/")
               for out in made())  # fmt: skip


@pytest.mark.parametrize("page", NOW, ids=identity)
def test_files_that_are_named_exist_or_are_made(page: Path) -> None:
    assert [path for path in paths(page) if not exists(path)] == []


def test_what_is_looked_for_is_found_and_what_is_not_there_is_not() -> None:
    assert sum(len(list(paths(page))) for page in NOW) > 60
    there = "src/isoflop/runtime/stage.py", "metrics/latency.json", "metrics/prune-NAME.json", "ship/model.onnx", "onnx"
    for path in there:
        assert exists(path), path
    for path in ("src/isoflop/stages.py", "metrics/latencies.json", "plots/none.png", "**/utils.py", "docs/HOWTO.md"):
        assert not exists(path), path


@cache
def commands() -> dict[str, set[str]]:
    """Command → its options."""
    names = [name for name in app if not name.startswith("-")]
    return {
        name: {"--help"}.union(*(argument.names for argument in app[name].assemble_argument_collection()))
        for name in names
    }


@pytest.mark.parametrize("page", NOW, ids=identity)
def test_commands_exist_with_their_options(page: Path) -> None:
    unknown = []
    there = tracked() | set(new_files(page))
    for line in code(page.read_text()):
        for called in re.findall(r"(?:^|[\s;&(])isoflop ([a-z][^;&|#)]*)", line):
            command, *words = called.split()
            options = {word.partition("=")[0] for word in words if word.startswith("--")}
            if command not in commands() or options - commands()[command]:
                unknown.append(f"isoflop {called}")
        for module in re.findall(r"python -m ((?:isoflop|benchmarks|stages)\.[a-z_0-9.]+)", line):
            base = "src/" if module.startswith("isoflop") else ""
            if f"{base}{module.rstrip('.').replace('.', '/')}.py" not in there:
                unknown.append(f"python -m {module}")
    assert unknown == []


@pytest.mark.parametrize("page", NOW, ids=identity)
def test_parameters_exist(page: Path) -> None:
    rows = re.findall(r"^\| `([\w.]+)`", (ROOT / REFERENCE).read_text(), flags=re.MULTILINE)
    known = {".".join(row.split(".")[:length]) for row in rows for length in range(1, row.count(".") + 2)}
    sections = {row.partition(".")[0] for row in rows}
    named = set(re.findall(r"(?<![\w./-])([a-z]+(?:\.[a-z_0-9]+)+)(?![\w/(]|\.\w)", "\n".join(code(page.read_text()))))
    methods = ("distill.", "prune.", "sparsify.", "qat.", *(Path(file).stem for file in new_files(page)))
    free = tuple(f"variants.{method}" for method in methods)  # names that users choose
    modules = {name.removeprefix("src/isoflop/").removesuffix(".py").replace("/", ".") for name in tracked()}
    files = (".py", ".json", ".csv", ".yaml", ".md", ".png", ".onnx", ".html")
    wrong = [
        name
        for name in sorted(named)
        if name.partition(".")[0] in sections and name not in known | modules and not name.startswith(free)
        and not name.endswith(files)
    ]  # fmt: skip
    assert wrong == []


def test_the_architecture_names_every_module_and_stage() -> None:
    """Each package has a paragraph that starts with its name and names exactly its modules."""
    text = (DOCS / "architecture.md").read_text()
    section = text[text.index("\n## The modules") : text.index("\n## What is guaranteed")]
    _, *parts = re.split(r"^\*\*`(\w+)`\*\*", section, flags=re.MULTILINE)
    named = {package: set(re.findall(r"`(\w+)\.py`", content)) for package, content in pairs(parts)}
    source = ROOT / "src" / "isoflop"
    packages = {file.parent.name for file in source.glob("*/*.py")}
    assert named == {name: {file.stem for file in (source / name).rglob("[!_]*.py")} for name in packages}
    assert {file.stem for file in source.glob("[!_]*.py")} <= set(re.findall(r"`(\w+)`", section))
    graph = text[text.index("\n## The graph") : text.index("\n## How a stage")]
    stages = set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    assert stages - set(re.findall(r"`(\w+)`", graph)) == set()


def pairs(parts: list[str]) -> Iterator[tuple[str, str]]:
    """The first and second item, the third and fourth, and so on."""
    return zip(parts[::2], parts[1::2], strict=True)


def test_the_architecture_states_the_layers_of_pyproject() -> None:
    layers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
    text = (DOCS / "architecture.md").read_text()
    table = text[text.index("| layer, top to bottom") : text.index("`scaling` knows")]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines() if line.startswith("| `")]
    assert rows == [re.findall(r"\w+", layer) for layer in layers]


def test_the_readme_is_short_and_its_tree_names_every_package() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    tree = text[text.index("\n## The tree") :]
    packages = {file.parent.name for file in (ROOT / "src" / "isoflop").glob("*/__init__.py")}
    assert {name for name in packages if f"\n  {name}/ " not in tree} == set()
    table = text[text.index(" variant  ") : text.index("latency: median")]
    assert max(map(len, table.splitlines())) <= 100
    assert len(re.findall(r"^\d\. `([^`]+)`", tree, flags=re.MULTILINE)) == 6


def test_version_and_licence_are_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert f"\n## {project['version']} - " in (ROOT / "CHANGELOG.md").read_text()
    licence = (ROOT / "LICENSE").read_text()
    assert "Apache License" in licence and "The isoflop authors" in licence


def test_pre_commit_runs_what_make_check_runs() -> None:
    makefile = (ROOT / "Makefile").read_text()
    recipe = makefile[makefile.index("\ncheck:") :].split("\n\n")[0].splitlines()[2:]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"] for repository in config["repos"] for hook in repository["hooks"]]
    assert hooks == [line.strip() for line in recipe]


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r"\]\(([^)#]+)\)", (DOCS / "README.md").read_text()))
    assert {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")} - linked == {"README.md"}


def test_no_page_but_the_tutorial_and_howtos_looks_as_if_it_were_run() -> None:
    run = ("tutorial.md", "model-family.md", "add-a-compression-method.md")
    assert [identity(page) for page in PAGES if page.name not in run and blocks(page.read_text(), "console")] == []


def test_the_warnings_that_forbid_extrapolation_are_those_of_the_code() -> None:
    text = (DOCS / "explanation" / "scaling-law.md").read_text()
    rows = [line.split("|") for line in text[text.index("\n## When not") :].splitlines() if line.startswith("| `")]
    voids = {kind: row[2].strip() for row in rows for kind in re.findall(r"`(\w+)`", row[1])}
    assert set(voids) >= WARNINGS
    assert {kind for kind, answer in voids.items() if answer == "yes"} == VOIDING


def test_each_guarantee_of_the_threat_model_names_its_tests() -> None:
    text = (ROOT / "SECURITY.md").read_text().partition("## Threat model")[2].partition("## Out of scope")[0]
    rows = [row for row in re.findall(r"^\| (.+) \| (.*) \|$", text, flags=re.MULTILINE) if row[0] != "guarantee"]
    assert len(rows) > 20
    for guarantee, tests in rows:
        names = re.findall(r"`(tests/[\w/]+\.py)`", tests)
        assert names and all("\ndef test_" in (ROOT / name).read_text() for name in names), guarantee
