"""Work on many images by a pool of threads, in constant memory."""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any

from keras_efficientnet.errors import InputError


def in_threads(function: Callable, items: Iterable, workers: int | None = None) -> Iterator:
    """Yields `function(item)` of each item, in order.

    Args:
        function: what to do; called in several threads at once.
        items: taken one by one, at most `4 * workers` ahead of what has been yielded.
        workers: number of threads; the number of cores if None.
    """
    workers = workers or os.cpu_count() or 1
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(function, item) for item in islice(remaining, 4 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(function, item) for item in islice(remaining, 1)]


def attempt(function: Callable, item: Any) -> Any:
    """Returns `function(item)`, or the `InputError` that it raised."""
    try:
        return function(item)
    except InputError as error:
        return error
