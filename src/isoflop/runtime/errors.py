"""The error that a user can mend, and how to tell that there was too little memory."""

from __future__ import annotations

from pathlib import Path

_OUT_OF_MEMORY = (
    "out of memory",  # torch on a GPU
    "can't allocate memory",  # torch on a CPU
    "could not create a primitive",  # oneDNN, without another word
    "could not create a memory",
)


class UserError(Exception):
    """A mistake in the input, said in one line: the key or file, what was found, what was expected.

    Commands and stages print its message and exit with status 1; any other exception is a bug of ours and
    keeps its traceback.
    """


def unmade(file: Path, stage: str = "") -> UserError:
    """That a file which the pipeline makes, or one stage of it, is not there."""
    return UserError(f"{file}: not found; `dvc repro{stage and f' {stage}'}` makes it")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error says that there was too little memory, on a CPU or a GPU."""
    return isinstance(error, MemoryError) or any(phrase in str(error) for phrase in _OUT_OF_MEMORY)
