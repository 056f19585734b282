"""Which images are held out: by the name of a split, or as a share of each class."""

import math
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

HOLDOUT = 0.2
"""Share of each class that is held out by default."""
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


def describe_holdout(share: float) -> str:
    """Returns the sentence on a split by `stratified_split`."""
    return f"{100 * share:g} % of each class held out"


def describe_splits(kind: str, names: Sequence[str]) -> str | None:
    """Returns such as "folders train, val and test"; None for one name, which is no split."""
    return f"{kind} {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else None


def stratified_split(labels: Any, share: float) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices of training and held-out images, each in ascending order.

    Each class is held out in proportion. The split depends only on the labels, so that runs
    with different seeds can be compared.

    Args:
        labels: class indices; at least two images of each class.
        share: of the images to hold out, in (0, 1); at least one image for each class is held
            out and one is not.
    """
    from sklearn.model_selection import train_test_split

    classes = len(np.unique(labels))
    count = min(max(classes, math.ceil(share * len(labels))), len(labels) - classes)
    train, test = train_test_split(
        np.arange(len(labels)), test_size=count, stratify=labels, random_state=0
    )
    return np.sort(train), np.sort(test)
