"""Data sets that a CSV file lists: a row for each image."""

import csv
import io
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.data.folders import Listing, Walk, class_name
from keras_efficientnet.data.listing import Listed, Reading
from keras_efficientnet.data.splits import ACCEPTED, SPLITS, describe_splits, split_of
from keras_efficientnet.errors import InputError


def list_csv(file: Path) -> Listed:
    """Lists a CSV file that names images and their classes.

    It has a header with the columns `path` and `label`, in any order and beside others.
    Relative paths begin at the file's own folder. A column `split` may say `train`, `val` or
    `test`, in any usual spelling, and a column `group` which images belong together.

    Args:
        file: in UTF-8.

    Raises:
        InputError: if it cannot be read; of a bad row, with the number of its line.
    """
    walk = Walk()
    listings: dict[str, Listing] = {}
    lines: dict[str, tuple[int, str, str, str]] = {}
    groups: dict[Path, str] = {}
    again = 0
    for line, path, label, split, group in _rows(file):
        # Links and detours lead to one file, which counts once.
        row = (line, label, split, group)
        first, *before = lines.setdefault(os.path.realpath(path), row)
        if first == line:
            listings.setdefault(split, {}).setdefault(label, []).append(path)
            if group:
                groups[path] = group
        elif before == [label, split, group]:
            again += 1
        else:
            raise InputError(
                f"CSV file {str(file)!r} names {str(path)!r} on lines {first} and {line} with "
                "another label, split or group; an image can have one only."
            )
    if again:
        walk.remarks.append(f"Ignored {again} rows that repeat another row.")
    _refuse_several(file, [row[1] for row in lines.values()], [row[0] for row in lines.values()])
    ordered = {name: listings[name] for name in SPLITS if name in listings}
    split = describe_splits("rows marked", list(ordered))
    return Listed(f"csv:{file}", file.parent, file.stem, ordered, split, walk, groups)


def from_csv(file: Path, reading: Reading) -> Dataset:
    """Opens a CSV file as `list_csv` lists it, to train on.

    Without a column `split`, or if all rows say `train`, a share of each class is held out.

    Args:
        file: in UTF-8.
        reading: how.

    Raises:
        InputError: see `sources.load`.
    """
    listed = list_csv(file)
    if (count := len(listed.listings.get("train", {}))) < 2:
        raise InputError(
            f"CSV file {str(file)!r} must name training images of at least two classes; it names "
            f"{count}."
        )
    return listed.open(reading)


def _refuse_several(file: Path, labels: Sequence[str], lines: Sequence[int]) -> None:
    """Refuses cells that hold several labels, which one class each would make a class of.

    Raises:
        InputError: if a cell is a list, or its words are labels of other rows.
    """
    known = set(labels)
    for label, line in zip(labels, lines, strict=True):
        parts = [part.strip(" '\"") for part in re.split(r"[|;]", label.strip("[]"))]
        if len(parts) == 1 and not (label.startswith("[") and label.endswith("]")):
            for separator in (r"\s*[,/+&]\s*", r"\s+"):
                parts = re.split(separator, label)
                if len(parts) > 1 and known.issuperset(parts):
                    break
            else:
                continue
        raise InputError(
            f"CSV file {str(file)!r}, line {line}: {label!r} looks like several labels, and an "
            "image can have one only; write one in each cell, or rename a class that is called so."
        )


def _rows(file: Path) -> Iterator[tuple[int, Path, str, str, str]]:
    """Yields the number of the line, and path, label, split and group of each row."""
    name = f"CSV file {str(file)!r}"
    try:
        text = file.read_text(encoding="utf-8-sig")  # spreadsheets put a byte order mark first
    except OSError as error:
        raise InputError(f"{name} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError:
        raise InputError(f"{name} is not text in UTF-8; save it as such.") from None
    reader = csv.DictReader(io.StringIO(text), strict=True)
    try:
        reader.fieldnames = [field.strip().lower() for field in reader.fieldnames or ()]
        if missing := {"path", "label"} - set(reader.fieldnames):
            raise InputError(
                f"{name} has no column {min(missing)!r} in its first line; the columns path and "
                "label, parted by a comma, are needed."
            )
        columns = {"path": "", "label": "", "split": "train", "group": ""}
        for name_of in columns:
            if reader.fieldnames.count(name_of) > 1:
                raise InputError(f"{name} has several columns {name_of!r}; rename all but one.")
        for row in reader:
            path, label, split, group = (
                (row.get(field, usual) or "").strip() for field, usual in columns.items()
            )
            if None in row or not path or not label:
                raise InputError(
                    f"{name}, line {reader.line_num}, must have a path, a label and no more "
                    "values than the first line."
                )
            if not (known := split_of(split)):
                raise InputError(
                    f"{name}, line {reader.line_num}: split {split!r} must be {ACCEPTED}."
                )
            yield (
                reader.line_num,
                file.parent / os.path.expanduser(path),
                class_name(label),
                known,
                group,
            )
    except csv.Error as error:
        line = reader.reader.line_num
        raise InputError(f"{name}, line {line}, cannot be read: {error}.") from None
