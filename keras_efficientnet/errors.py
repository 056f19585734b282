"""The one exception the command line turns into a sentence."""


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one sentence that names the input, says what is wrong with it and
    what would be accepted. The command line prints it and exits with code 2.
    """
