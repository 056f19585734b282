"""Keeps native libraries' notes off the user's terminal."""

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Sends what is written to standard error meanwhile to the null device.

    TensorFlow and its converter print from C++, where Python's `sys.stderr` and logging
    levels do not reach. Exceptions pass through as ever.
    """
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
