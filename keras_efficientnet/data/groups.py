"""Images that belong together, such as frames of a clip or photos of a patient."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from keras_efficientnet.data.folders import Listing
from keras_efficientnet.errors import InputError

PARENT = "parent"


def group_files(paths: Iterable[Path], root: Path, by: str) -> dict[Path, str]:
    """Tells the group of files by their paths.

    Args:
        paths: of the files.
        root: folder that paths are taken relative to.
        by: `"parent"` for the name of the folder that a file is in; or a regular expression,
            searched in the path with `/` between its parts, whose groups, or all that matches
            where it has none, name the file's group.

    Returns:
        The group of each file that has one.

    Raises:
        InputError: if it is no regular expression, or fits none of the paths.
    """
    if by == PARENT:
        return {path: path.parent.name for path in paths}
    try:
        pattern = re.compile(by)
    except re.error as error:
        raise InputError(
            f"--group-by {by!r} is neither {PARENT} nor a regular expression: {error}."
        ) from error
    found = {}
    for path in paths:
        inner = path.relative_to(root) if path.is_relative_to(root) else path
        if match := pattern.search(inner.as_posix()):
            found[path] = "/".join(part or "" for part in match.groups()) or match.group()
    if not found:
        raise InputError(f"--group-by {by!r} is not found in any path of the images.")
    return found


def number_groups(groups: Iterable[str]) -> np.ndarray:
    """Returns a number for each image, equal for those of one group; `""` is none."""
    numbers: dict[str | int, int] = {}
    return np.array(
        [numbers.setdefault(group or -index, len(numbers)) for index, group in enumerate(groups, 1)]
    )


def refuse_divided(
    source: str, listings: Mapping[str, Listing], groups: Mapping[Path, str]
) -> None:
    """Refuses groups with images in several splits.

    Raises:
        InputError: if there is one.
    """
    first: dict[str, tuple[str, Path]] = {}
    for split, listing in listings.items():
        for path in (path for paths in listing.values() for path in paths if path in groups):
            before, other = first.setdefault(groups[path], (split, path))
            if before != split:
                raise InputError(
                    f"Group {groups[path]!r} of {source!r} is in the splits {before} and {split}, "
                    f"with {other} and {path}; a group must be in one split alone."
                )


def refuse_single(classes: Listing, groups: Mapping[Path, str]) -> None:
    """Refuses a class that whole groups cannot divide.

    Raises:
        InputError: if all images of a class are in one group.
    """
    for name, paths in classes.items():
        if len({groups.get(path, path) for path in paths}) < 2:
            raise InputError(
                f"Class {name!r} has only one group, {groups[paths[0]]!r}; at least two are "
                "needed, one of them to be held out."
            )


def links(numbers: Sequence[int] | np.ndarray) -> np.ndarray:
    """Returns index pairs, int `[count, 2]`, of each image with the first of its number."""
    _, first, inverse = np.unique(numbers, return_index=True, return_inverse=True)
    return np.stack([np.arange(len(inverse)), first[inverse]], 1)
