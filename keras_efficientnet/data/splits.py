"""Which images are held out: by the name of a split, or as a share of each class."""

import re
from typing import Any

import numpy as np

HELD_OUT_FRACTION = 0.2
HELD_OUT = f"{HELD_OUT_FRACTION * 100:.0f} % of each class held out"
SPLITS = ("train", "val", "test")
ACCEPTED = "train, val or test, or a usual spelling such as training, validation or test_set"

_NAME = re.compile(
    "(?:seg)?(?:(train(?:ing|val)?)|(val(?:id(?:at(?:e|ion))?)?|dev|eval(?:uation)?)|(test(?:ing)?))"
    r"(?:set|data|images|split)?\d*"
)


def split_of(name: str) -> str | None:
    """Returns which of `SPLITS` a name means, in any case and usual spelling, or None."""
    match = _NAME.fullmatch(re.sub(r"[\W_]", "", name.casefold()))
    return SPLITS[match.lastindex - 1] if match and match.lastindex else None


def stratified_split(labels: Any, test_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of training and held-out images, each in ascending order.

    Each class is held out in proportion. The split depends only on the labels, so that runs
    with different seeds can be compared.
    """
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_count, stratify=labels, random_state=0
    )
    return np.sort(train), np.sort(test)
