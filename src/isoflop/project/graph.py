"""The graph of dvc.yaml as DVC sees it: which stage waits for which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.runtime.errors import UserError


@dataclass(frozen=True)
class Graph:
    """Stages by name; a .dvc file counts as one, named by its path."""

    parents: dict[str, list[str]]  # those that it directly depends on; in an order in which each comes after them
    alone: frozenset[str]  # `meta: {alone: true}`, as what measures time has, and what depends on them
    given: frozenset[str]  # folders that stages without parents read: what is nobody's output

    @property
    def roots(self) -> list[str]:
        return [stage for stage, before in self.parents.items() if not before]


def read_graph(project: Path, targets: Sequence[str] = ()) -> Graph:
    """``targets`` (all stages, if none is named; ``sweep`` is all ``sweep@…``) and what they need.

    Raises:
        UserError: dvc.yaml is not valid, or a target is no stage of it.
    """
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(project)) as repo:
            stages = {_name(stage, project): stage for stage in repo.index.stages}
            graph = networkx.relabel_nodes(repo.index.graph, lambda stage: _name(stage, project))
    except DvcException as error:
        raise UserError(f"dvc.yaml: {' '.join(str(error).split())}") from None
    named = {target: [name for name in graph if target in (name, _group(name))] for target in targets}
    unknown = [target for target, stages_of in named.items() if not stages_of]
    if unknown:
        raise UserError(f"dvc.yaml: found no stage {', '.join(unknown)}, expected of {', '.join(sorted(graph))}")
    wanted = [name for stages_of in named.values() for name in stages_of]
    needed = set(wanted or graph).union(*(networkx.descendants(graph, name) for name in wanted))
    graph = graph.subgraph(needed)
    places = {name: place for place, name in enumerate(stages)}
    first = {name: min(places[other] for other in places if _group(other) == _group(name)) for name in needed}
    in_order = networkx.lexicographical_topological_sort(
        graph.reverse(),  # as dvc.yaml has them, but of a group the last first: of a sweep it is the largest
        key=lambda name: (first[name], -places[name]),
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
