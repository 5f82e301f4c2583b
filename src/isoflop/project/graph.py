"""The dependency graph of dvc.yaml, as DVC resolves it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.runtime.errors import UserError
from isoflop.runtime.stage_code import CODE_STAGE


@dataclass(frozen=True)
class Graph:
    """The stages by name; a .dvc file is a stage named by its path."""

    parents: dict[str, list[str]]  # direct dependencies; in topological order
    alone: frozenset[str]  # stages with `meta: {alone: true}`, which measure time, and their dependents
    given: frozenset[str]  # folders that stages without parents read; no stage writes them

    @property
    def roots(self) -> list[str]:
        return [stage for stage, before in self.parents.items() if not before]


def read_graph(project: Path, targets: Sequence[str] = ()) -> Graph:
    """Return the graph of ``targets`` (default: all stages; ``sweep`` stands for all ``sweep@…``) and their ancestors,
    without stage ``code``.

    Raises:
        UserError: dvc.yaml is not valid, or has no such target.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(project)) as repo:
            stages = {_name(stage, project): stage for stage in repo.index.stages}
            graph = networkx.relabel_nodes(repo.index.graph, lambda stage: _name(stage, project))
            graph.remove_nodes_from([CODE_STAGE])  # writes code.yaml, which git has, and is the parent of all
    except DvcException as error:
        raise UserError(f"dvc.yaml: {' '.join(str(error).split())}") from None
    named = {target: [name for name in graph if target in (name, _group(name))] for target in targets}
    unknown = [target for target, stages_of in named.items() if not stages_of]
    if unknown:
        raise UserError(f"dvc.yaml: got no stage {', '.join(unknown)}, expected one of {', '.join(sorted(graph))}")
    wanted = [name for stages_of in named.values() for name in stages_of]
    needed = set(wanted or graph).union(*(networkx.descendants(graph, name) for name in wanted))
    graph = graph.subgraph(needed)
    order = {name: index for index, name in enumerate(stages)}
    first = {name: min(order[other] for other in order if _group(other) == _group(name)) for name in needed}
    in_order = networkx.lexicographical_topological_sort(
        graph.reverse(),  # in the order of dvc.yaml, but the last of a group first: in a sweep it is the largest
        key=lambda name: (first[name], -order[name]),
    )
    parents = {stage: sorted(graph.successors(stage)) for stage in in_order}
    measures = [name for name in needed if (getattr(stages[name], "meta", None) or {}).get("alone")]
    alone = frozenset(measures).union(*(networkx.ancestors(graph, name) for name in measures))
    roots = [stages[name] for name, before in parents.items() if not before]
    given = [Path(dep.fs_path) for stage in roots for dep in stage.deps if dep.protocol == "local"]
    folders = frozenset(
        path.relative_to(project.resolve()).as_posix()
        for path in given
        if path.is_dir() and project.resolve() in path.parents
    )
    return Graph(parents, alone, folders)


def _group(name: str) -> str:
    return name.partition("@")[0]


def _name(stage: Any, project: Path) -> str:
    name = getattr(stage, "name", None)
    return str(name) if name else Path(stage.path).relative_to(project.resolve()).as_posix()
