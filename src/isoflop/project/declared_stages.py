"""The stages of dvc.yaml with their templates filled in, read without DVC, which takes seconds to start.

Covers what the graph of isoflop uses: ``vars``, ``foreach``, ``matrix`` and ``${a.b}`` with plain values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

_TEMPLATE = re.compile(r"\$\{([^{}]+)\}")


@dataclass(frozen=True)
class Declared:
    """A stage as dvc.yaml declares it; ``params`` are pairs of a file and a dotted key."""

    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]
    params: tuple[tuple[str, str], ...]
    frozen: bool


def declared_stages(graph: Any, params: Any) -> dict[str, Declared]:
    """Return the stages by name, such as ``sweep@8``.

    Args:
        graph: dvc.yaml, parsed.
        params: params.yaml, parsed.

    Raises:
        ValueError: dvc.yaml has something that only DVC reads.
    """
    try:
        known = dict(params)
        for variables in graph.get("vars", []):
            known |= variables
        return {
            name: _declared(body, values)
            for stage, whole in graph["stages"].items()
            for name, body, values in _instances(stage, whole, known)
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"dvc.yaml: {error}") from None


def _instances(stage: str, whole: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    """Yield name, body and values of each stage that an entry of dvc.yaml stands for."""
    if "foreach" in whole:
        items = _filled(whole["foreach"], known)
        named = items.items() if isinstance(items, dict) else [(item, item) for item in items]
        for key, item in named:
            yield f"{stage}@{key}", whole["do"], {**known, "key": key, "item": item}
    elif "matrix" in whole:
        axes = {name: list(_filled(values, known)) for name, values in whole["matrix"].items()}
        for chosen in product(*axes.values()):
            yield (
                f"{stage}@{'-'.join(map(str, chosen))}",
                whole,
                {**known, "item": dict(zip(axes, chosen, strict=True))},
            )
    else:
        yield stage, whole, known


def _declared(body: Mapping[str, Any], values: Mapping[str, Any]) -> Declared:
    params = []
    for item in _filled(body.get("params", []), values):
        files = item if isinstance(item, dict) else {"params.yaml": [item]}
        params += [(file, key) for file, keys in files.items() for key in keys]
    outs = [out for kind in ("outs", "metrics", "plots") for out in body.get(kind, [])]
    paths = [next(iter(out)) if isinstance(out, dict) else out for out in outs]  # a path, or a path with its options
    return Declared(
        _filled(body["cmd"], values),
        tuple(map(str, _filled(body.get("deps", []), values))),
        tuple(map(str, _filled(paths, values))),
        tuple(params),
        bool(body.get("frozen", False)),
    )


def _filled(value: Any, values: Mapping[str, Any]) -> Any:
    """Replace the templates in ``value``; a text that is one template becomes its value."""
    if isinstance(value, dict):
        return {_filled(key, values): _filled(inner, values) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, values) for inner in value]
    if not isinstance(value, str):
        return value
    if whole := _TEMPLATE.fullmatch(value):
        return _looked_up(whole[1], values)
    return _TEMPLATE.sub(lambda found: str(_looked_up(found[1], values)), value)


def _looked_up(dotted: str, values: Any) -> Any:
    for part in dotted.strip().split("."):
        values = values[part]
    return values
