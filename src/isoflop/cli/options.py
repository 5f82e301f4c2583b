"""Types of command-line options: each checks the value it reads; the errors name the value and what is expected."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_origin

from cyclopts import Parameter

if TYPE_CHECKING:
    from cyclopts.completion import CompletionContext
    from cyclopts.token import Token


def _checked(read: Callable[[str], float], expected: str, holds: Callable[[float], bool]) -> Parameter:
    """Return a parameter, or a list of them, that ``read`` converts and for which ``holds`` is true."""

    def checked(text: str) -> float:
        with contextlib.suppress(ValueError):
            if holds(value := read(text)):
                return value
        raise ValueError(f"got {text!r}, expected {expected}")

    def convert(kind: Any, tokens: Sequence[Token]) -> Any:
        values = [checked(token.value) for token in tokens]
        return values if get_origin(kind) is list else values[0]

    return Parameter(converter=convert)


def package_presets(_: CompletionContext) -> list[str]:
    """Return the names of the presets in the installed package, for completion."""
    from isoflop.project.presets import presets_of_package

    return [preset.name for preset in presets_of_package()]


def project_presets(_: CompletionContext) -> list[str]:
    """Return the names of the presets of the project around the working directory, for completion."""
    from isoflop.cli.project_folder import find_project
    from isoflop.project.presets import read_presets

    return [preset.name for preset in read_presets(find_project(Path.cwd()))]


_positive = _checked(float, "a positive number", lambda value: 0 < value < math.inf)
_several = Parameter(consume_multiple=1, show_default=lambda values: " ".join(map(str, values)))

Flag = Annotated[bool, Parameter(show_default=False)]
Json = Annotated[bool, Parameter(name="--json", show_default=False)]
Positive = Annotated[float, _positive]
Positives = Annotated[list[float], _positive, _several]
Numbers = Annotated[list[float], _checked(float, "a number", math.isfinite), _several]
Share = Annotated[float, _checked(float, "a fraction from 0 to 1", lambda value: 0 <= value <= 1)]
Count = Annotated[int, _checked(int, "an integer of 1 or more", lambda value: value >= 1)]
Sizes = Annotated[
    list[int],
    _checked(int, "an integer of 1 or more", lambda value: value >= 1),
    Parameter(consume_multiple=1, show_default=False),
]
Natural = Annotated[int, _checked(int, "an integer of 0 or more", lambda value: value >= 0)]
Bootstraps = Annotated[int, _checked(int, "an integer of 20 or more", lambda value: value >= 20)]
Port = Annotated[int, _checked(int, "a port from 0 to 65535", lambda value: 0 <= value <= 65535)]
Devices = Annotated[
    float,
    _checked(float, "a fraction from 0 to 1 or an integer", lambda value: 0 <= value <= 1 or value in range(1025)),
]
