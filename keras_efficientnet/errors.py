"""The two exceptions that the command line turns into a sentence, and how values are refused."""

import numbers
from collections.abc import Sequence
from typing import Any

RANGE = "two finite numbers, the lower one first"


class InputError(ValueError):
    """Something the caller gave cannot be used.

    The message is one sentence that names the input, says what is wrong with it and
    what would be accepted. The command line prints it and exits with code 2.
    """


class RunError(RuntimeError):
    """A run could not go on for a reason that lies outside what the caller gave.

    Memory ran out, the loss became NaN, a disk is full, another host was lost. The message is
    one sentence that says what happened and what to do. The command line prints it and exits
    with code 1.
    """


class StoppedRun(RunError):  # noqa: N818 - nothing went wrong
    """A run was asked to stop by Ctrl-C or a signal, and has written a checkpoint.

    Args:
        message: says how to go on.
        signal: number of the signal. The command line exits with 128 more, as shells do.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.exit_code = 128 + signal


def reason(error: BaseException) -> str:
    """Returns the first line of an error's text, to be quoted inside a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].strip().rstrip(".")


def require(valid: bool, name: str, value: object, accepted: str) -> None:
    """Refuses an argument's value in the words that all of the package uses.

    Args:
        valid: whether the value is accepted; nothing happens then.
        name: of the argument.
        value: that was given.
        accepted: what would be, such as `"at least 1"`.

    Raises:
        InputError: if it is not valid.
    """
    if not valid:
        raise InputError(f"{name}={value!r} must be {accepted}.")


def require_range(
    name: str, value: object, low: float, high: float | None = None, whole: bool = False
) -> None:
    """Refuses what is no number from `low` to `high`, both included.

    Args:
        name: of the argument.
        value: that was given.
        low: smallest number accepted.
        high: largest number accepted; None for any.
        whole: accept whole numbers only.

    Raises:
        InputError: if it is something else.
    """
    number: Any = value if isinstance(value, numbers.Integral if whole else numbers.Real) else None
    valid = number is not None and number >= low and (high is None or number <= high)
    accepted = f"at least {low:g}" if high is None else f"from {low:g} to {high:,}"
    if whole:
        accepted = f"a whole number {'of ' if high is None else ''}{accepted}"
    require(valid, name, value, accepted)


def is_range(value: Any) -> bool:
    """Returns whether a value is `RANGE`."""
    return (
        isinstance(value, tuple)
        and len(value) == 2
        and all(isinstance(limit, int | float) and abs(limit) < 1e38 for limit in value)
        and value[0] < value[1]
    )


def require_choice(name: str, value: object, choices: Sequence[object]) -> None:
    """Refuses what is none of the choices.

    Raises:
        InputError: if it is none.
    """
    require(value in choices, name, value, f"one of {', '.join(map(str, choices))}")
