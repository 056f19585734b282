"""Which images are held out: by the name of a split, or as a share of each class."""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_efficientnet.errors import InputError

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


def describe_holdout(share: float, groups: int = 0, by: str = "") -> str:
    """Returns how a share was held out, by `grouped_split` where there are groups."""
    held_out = f"{100 * share:g} % of each class held out"
    return f"{held_out}, whole groups by {by} at a time ({groups:,} groups)" if by else held_out


def describe_splits(kind: str, names: Sequence[str]) -> str | None:
    """Returns such as "folders train, val and test"; None for one name, which is no split."""
    return f"{kind} {', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else None


def require_two(counts: Mapping[str, int]) -> None:
    """Refuses a class that cannot be divided, by the number of images of each.

    Raises:
        InputError: if there is one.
    """
    for name, count in counts.items():
        if count < 2:
            raise InputError(
                f"Class {name!r} has only one image; at least two are needed, one of them to be "
                "held out."
            )


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


def grouped_split(labels: np.ndarray, groups: np.ndarray, share: float) -> tuple[Any, Any]:
    """Returns the indices of training and held-out images, with no group on both sides.

    Each class is held out in proportion as nearly as whole groups admit; with as many groups as
    images, this is `stratified_split`. It depends on labels and groups alone.

    Args:
        labels: class indices, int `[count]`; at least two images of each class.
        groups: number of each image's group, int `[count]`.
        share: as of `stratified_split`. A class of which every group would be needed for training
            has no held-out image.
    """
    if len(np.unique(groups)) == len(groups):
        return stratified_split(labels, share)
    total = Counter(labels.tolist())
    contents: dict[int, Counter[int]] = {}
    for index in np.random.default_rng(0).permutation(len(labels)).tolist():
        contents.setdefault(int(groups[index]), Counter())[int(labels[index])] += 1
    held: Counter[int] = Counter()
    chosen: set[int] = set()

    def change(content: Counter[int]) -> float:
        """Returns what it adds to the squared distance from the shares, if it can be held out."""
        if any(held[label] + count >= total[label] for label, count in content.items()):
            return math.inf
        return sum(
            count * (count + 2 * (held[label] - share * total[label])) / total[label]
            for label, count in content.items()
        )

    # The largest first, so that smaller ones can make up for what they miss.
    for group, content in sorted(contents.items(), key=lambda item: -item[1].total()):
        if change(content) < 0:
            held += content
            chosen.add(group)
    for label in sorted(set(total) - set(held)):
        having = [group for group, content in contents.items() if label in content]
        best = min(having, key=lambda group: change(contents[group]))
        if change(contents[best]) < math.inf:
            held += contents[best]
            chosen.add(best)
    test = np.isin(groups, sorted(chosen))
    return np.flatnonzero(~test), np.flatnonzero(test)
