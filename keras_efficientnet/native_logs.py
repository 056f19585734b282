"""Keeps native libraries' notes off the user's terminal."""

import contextlib
import logging
import os
from collections.abc import Iterator

_LOGGERS = ("absl", "tensorflow")


@contextlib.contextmanager
def suppress_native_logs() -> Iterator[None]:
    """Sends what is written to standard error meanwhile to the null device.

    TensorFlow and its converter print from C++, where Python's `sys.stderr` and logging
    levels do not reach. What it says through Python's logging, which a notebook shows, is kept
    back as well. Exceptions pass through as ever.
    """
    levels = {logger: logger.level for logger in map(logging.getLogger, _LOGGERS)}
    for logger in levels:
        logger.setLevel(logging.ERROR)
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
        for logger, level in levels.items():
            logger.setLevel(level)
