"""For ``dvc_guard``: values of params.yaml that dvc.yaml puts into commands and paths."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PROJECT_FILE = "code.yaml"  # only in projects and checkouts of isoflop


def checked_names(create: Callable[..., None]) -> Callable[..., None]:
    """Refuse values of params.yaml that dvc.yaml puts into commands and paths unless they are plain words.

    A `;` would be run by the shell, and `..` would make DVC delete a folder that is no output.
    """

    def checked(self: Any, repo: Any, wdir: str, content: dict[str, Any]) -> None:
        create(self, repo, wdir, content)
        if not repo.fs.exists(repo.fs.join(repo.root_dir, _PROJECT_FILE)):
            return
        from dvc.exceptions import DvcException

        for name, definition in self.definitions.items():
            if hasattr(definition, "normalized_iterable"):
                for word in _strings(_plain(definition.normalized_iterable)):
                    if not _WORD.fullmatch(word):
                        raise DvcException(
                            f"params.yaml: got {word!r} in what stage {name} iterates over, expected only letters, "
                            "digits, and _ . - after the first"
                        )
        data = _plain(self.context.data).get("data")
        if isinstance(data, Mapping) and _leads_to_a_server(str(data.get("path"))):
            raise DvcException(f"params.yaml: data.path: got {data['path']!r}, expected a path on this machine")

    return checked


def _leads_to_a_server(path: str) -> bool:
    """Return whether DVC would ask a server for this dependency: ``s3:bucket/images``, also without slashes."""
    from dvc.fs import registry

    scheme = path.partition(":")[0].strip().lower()
    return "://" in path or (":" in path and scheme in {*registry, "remote"})


def _plain(value: Any) -> Any:
    """Return DVC's wrapped values as Python's own."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return _plain(value.value) if hasattr(value, "value") else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value
