"""Keeps the log messages of native libraries off the user's terminal."""

import contextlib
import logging
import os
from collections.abc import Iterator

_LOGGERS = ("absl", "tensorflow")


@contextlib.contextmanager
def suppress_native_logs() -> Iterator[None]:
    """Discards standard error and TensorFlow's logging below errors.

    TensorFlow and its converter print from C++, so that the file descriptor itself is
    redirected; their messages through Python's `logging` would show in notebooks. Exceptions are
    not affected.
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
