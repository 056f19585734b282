"""The one exception the command line turns into a sentence."""


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one sentence that names the input, says what is wrong with it and
    what would be accepted. The command line prints it and exits with code 2.
    """


def reason(error: BaseException) -> str:
    """Returns the first line of an error's text, to be quoted inside a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")
