"""The exception for mistakes that a user can fix, and the detection of out-of-memory errors."""

from __future__ import annotations

from pathlib import Path

_OUT_OF_MEMORY = (
    "out of memory",  # torch on a GPU
    "can't allocate memory",  # torch on a CPU
    "could not create a primitive",  # oneDNN, without any other hint
    "could not create a memory",
)


class UserError(Exception):
    """A mistake in the input. The message is one line: the key or file, what it got, what it expected, the fix.

    Commands and stages print the message and exit with status 1. Any other exception is a bug in isoflop and keeps its
    traceback.
    """


def unmade(file: Path, stage: str = "") -> UserError:
    """Return the error for a missing file that the pipeline, or one stage of it, writes."""
    return UserError(f"{file}: not found; fix: `dvc repro{stage and f' {stage}'}` writes it")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error reports too little memory, on a CPU or a GPU."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
