"""The error that a user can mend."""


class UserError(Exception):
    """A mistake in the input, said in one line: the key or file, what was found, what was expected.

    Commands and stages print its message and exit with status 1; any other exception is a bug of ours and
    keeps its traceback.
    """
