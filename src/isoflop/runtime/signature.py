"""The signature of a stage's ``main``: which arguments are inputs, which are outputs, and their options."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from isoflop.runtime.params import Section, variant_keys

In = Annotated[Path, "input"]
Out = Annotated[Path, "output"]


def contract(main: Callable[..., None]) -> dict[str, Any]:
    """Return the annotation of each argument of ``main``: a Section, ``In``, ``list[In]``, ``Out``, int or str."""
    hints = get_type_hints(main, include_extras=True)
    return {name: hints[name] for name in inspect.signature(main).parameters}


def is_varied(arguments: dict[str, Any]) -> bool:
    """Return whether the stage makes one of several variants, which its command names with ``--variant``."""
    sections = [kind for kind in arguments.values() if isinstance(kind, type) and issubclass(kind, Section)]
    return any(variant_keys(section) for section in sections)


def option(argument: str) -> str:
    """Return the command-line option of an argument of ``main``."""
    return "--" + argument.replace("_", "-")
