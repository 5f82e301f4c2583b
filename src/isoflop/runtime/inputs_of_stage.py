"""What a stage read, as it was when the stage began, to notice what changed while it ran.

DVC records parameters, code and inputs after the command of a stage, so it would pair their new state with a result of
the old one, in dvc.lock and in the run cache that a team shares.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from isoflop.runtime.errors import UserError
from isoflop.runtime.params import PARAMS_FILE, Section, tracked_keys, value_at, variant_keys
from isoflop.runtime.stage_code import CODE_STAGE, code_digest, installed, running_stage

_Files = dict[str, tuple[int, int, int]]  # path → size, time of the last change in ns, inode


@dataclass(frozen=True)
class InputsOfStage:
    """The parameters that decide the outputs, the digest of the code and the state of the files of each input."""

    params: Mapping[str, Any]
    code: str
    files: Mapping[Path, _Files]

    def check(self, now: InputsOfStage) -> None:
        """Compare with the state at the end of the stage.

        Raises:
            UserError: something changed; the message names it.
        """
        changed = [f"{PARAMS_FILE}: {key}" for key, value in self.params.items() if now.params.get(key) != value]
        changed += ["the code of the stage"] if now.code != self.code else []
        changed += [str(path) for path, files in self.files.items() if now.files.get(path) != files]
        if changed:
            raise UserError(
                f"{', '.join(changed)}: changed while the stage ran, so its result was not kept; fix: `dvc repro` again"
            )


def inputs_of_stage(
    sections: Sequence[type[Section]], content: Mapping[str, Any], variant: str | None, inputs: Iterable[Path]
) -> InputsOfStage:
    """Return the present state of what a stage reads; ``content`` is that of params.yaml."""
    keys = [key for section in sections for key in tracked_keys(section)]
    keys += [f"{by}.{variant}" for section in sections for by in variant_keys(section).values()]
    params = {key: _value(content, key) for key in keys}
    stage, code = running_stage(), installed()
    has_digest = stage is not None and stage != CODE_STAGE
    return InputsOfStage(
        params,
        code_digest(stage, code) if stage and has_digest else "",
        {path: dict(_files(path)) for path in [*inputs, *_named_inputs(sections, content)]},
    )


def _value(content: Mapping[str, Any], key: str) -> Any:
    try:
        return value_at(content, key, PARAMS_FILE)
    except UserError:  # `load_params` reports what is missing or misspelled
        return None


def _named_inputs(sections: Iterable[type[Section]], content: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the files and folders that parameters name, marked ``dependency`` in their schema."""
    for section in sections:
        for name, info in section.model_fields.items():
            if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                for field, inner in info.annotation.model_fields.items():
                    extra = inner.json_schema_extra
                    values = content.get(name)
                    if isinstance(extra, dict) and extra.get("dependency") and isinstance(values, dict):
                        yield Path(str(values.get(field)))


def _files(path: Path) -> Iterator[tuple[str, tuple[int, int, int]]]:
    """Yield the state of a file, or of those in a folder; hidden ones are temporary or belong to git and DVC."""
    try:
        if not path.is_dir():
            yield str(path), _state(path)
        for folder, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in names:
                if not name.startswith("."):
                    yield os.path.join(folder, name), _state(Path(folder, name))
    except OSError:  # the stage, or the comparison, names what is missing
        return


def _state(file: Path) -> tuple[int, int, int]:
    found = file.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
