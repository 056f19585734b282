"""Data sets of image files: in a folder for each class, or listed in a CSV file."""

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import (
    HELD_OUT,
    HELD_OUT_FRACTION,
    TEST_NAMES,
    TRAIN_NAMES,
    Dataset,
    FileExamples,
    ImageFile,
    LeftOut,
    slug,
    stratified_split,
)
from keras_efficientnet.data.threads import in_threads
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import is_text

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp"}
ORIENTATION_TAG = 0x0112

Listing = dict[str, list[Path]]
"""The files of each class."""


def from_folder(root: Path, strict: bool = False) -> Dataset:
    """Opens a folder that holds one folder of images for each class.

    Where it holds `train` and `val` (or `test`) instead, these hold the class folders.
    Else a fifth of each class is held out.

    Args:
        root: of all.
        strict: see `sources.load`.

    Raises:
        InputError: as `sources.load` does.
    """
    if not root.is_dir():
        raise InputError(f"Data folder {str(root)!r} does not exist.")
    train_root = _first_folder(root, TRAIN_NAMES)
    test_root = _first_folder(root, TEST_NAMES) if train_root else None
    train = _class_folders(train_root or root)
    if len(train) < 2:
        raise InputError(
            f"Data folder {str(train_root or root)!r} must hold one folder of images for each of "
            f"at least two classes; it has {len(train)}."
        )
    test, split = None, HELD_OUT
    if train_root and test_root:
        test, split = _class_folders(test_root), f"folders {train_root.name} and {test_root.name}"
    return _from_listings(f"folder:{root}", root.resolve().name, train, test, split, strict)


def from_csv(file: Path, strict: bool = False) -> Dataset:
    """Opens a CSV file that names images and their classes.

    It has a header with the columns `path` and `label`, in any order and beside others.
    Relative paths begin at the file's own folder. A column `split` may say `train` or
    `val` (or `test`); without it, or where all rows say `train`, a fifth of each class is
    held out.

    Args:
        file: in UTF-8.
        strict: see `sources.load`.

    Raises:
        InputError: as `sources.load` does; for a bad row, with the number of its line.
    """
    listings: dict[str, Listing] = {}
    lines: dict[Path, int] = {}
    for line, path, label, split in _rows(file):
        if path in lines:
            raise InputError(
                f"CSV file {str(file)!r} names {str(path)!r} on lines {lines[path]} and {line}; "
                "an image can have one row only."
            )
        lines[path] = line
        listings.setdefault(split, {}).setdefault(label, []).append(path)
    train = next((listings[name] for name in TRAIN_NAMES if name in listings), {})
    if len(train) < 2:
        raise InputError(
            f"CSV file {str(file)!r} must name training images of at least two classes; it names "
            f"{len(train)}."
        )
    test = next((listings[name] for name in TEST_NAMES if name in listings), None)
    split = f"rows marked {' and '.join(sorted(listings))}" if test else HELD_OUT
    return _from_listings(f"csv:{file}", file.stem, train, test, split, strict)


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_folders(root: Path) -> Listing:
    try:
        folders = [
            entry for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        ]
    except OSError as error:
        raise InputError(f"Data folder {str(root)!r} cannot be read: {error.strerror}.") from error
    listing = {}
    for folder in folders:
        if not is_text(folder.name):
            raise InputError(
                f"Class folder {str(folder)!r} has a name that is not text in UTF-8; rename it."
            )
        listing[folder.name] = sorted(
            path
            for path in folder.rglob("*")
            # A link to nowhere is no folder, and is reported with the unreadable files.
            if path.suffix.lower() in IMAGE_SUFFIXES
            and not path.name.startswith(".")
            and not path.is_dir()
        )
        if not listing[folder.name]:
            raise InputError(
                f"Class folder {str(folder)!r} has no images; "
                f"{', '.join(sorted(IMAGE_SUFFIXES))} files are read."
            )
    return listing


def _rows(file: Path) -> Iterator[tuple[int, Path, str, str]]:
    """Yields the number of the line, the path, the label and the split of each row."""
    name = f"CSV file {str(file)!r}"
    splits = TRAIN_NAMES + TEST_NAMES
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
        for row in reader:
            path, label, split = (
                (row.get(field, "train") or "").strip() for field in ("path", "label", "split")
            )
            if None in row or not path or not label:
                raise InputError(
                    f"{name}, line {reader.line_num}, must have a path, a label and no more "
                    "values than the first line."
                )
            if split not in splits:
                raise InputError(
                    f"{name}, line {reader.line_num}: split {split!r} must be one of "
                    f"{', '.join(splits)}."
                )
            yield reader.line_num, file.parent / path, label, split
    except csv.Error as error:
        line = reader.reader.line_num
        raise InputError(f"{name}, line {line}, cannot be read: {error}.") from None


def _from_listings(
    source: str, name: str, train: Listing, test: Listing | None, split: str, strict: bool
) -> Dataset:
    """Makes a data set of files that may be unreadable."""
    # Classes that are called by numbers keep the order of the numbers.
    in_order = int if all(label.isdecimal() for label in train) else None
    class_names = tuple(sorted(train, key=in_order))
    if unknown := sorted(set(test or ()) - set(class_names)):
        raise InputError(
            f"Class {unknown[0]!r} of the held-out images of {source!r} has no training images."
        )
    paths = [path for listing in (train, test or {}) for part in listing.values() for path in part]
    checked = dict(zip(paths, _checked(source, paths), strict=True))
    left_out = tuple(
        LeftOut(str(path), bad) for path, bad in checked.items() if isinstance(bad, str)
    )
    if left_out and strict:
        raise InputError(
            f"{len(left_out)} of {len(paths)} images of {source!r} cannot be used; the first: "
            f"{left_out[0].path} {left_out[0].reason}"
        )
    readable, held_out = (
        _examples(source, class_names, listing, checked) for listing in (train, test or {})
    )
    if test is None:
        readable, held_out = _hold_out(readable, class_names)
    return Dataset(
        name=slug(name),
        source=source,
        class_names=class_names,
        train=readable,
        test=held_out,
        crop_fraction=images.PHOTO_CROP_FRACTION,
        mirror=True,
        split=split,
        left_out=left_out,
    )


def _checked(source: str, paths: list[Path]) -> Iterator[tuple[int, int, int] | str]:
    """Decodes each file once, to find bad ones before training rather than in it."""
    bar = tqdm(total=len(paths), desc=f"Checking {source}", unit="img", leave=False)
    with bar:
        for checked in in_threads(_check, paths):
            bar.update()
            yield checked


def _check(path: Path) -> tuple[int, int, int] | str:
    """Returns EXIF orientation, height and width, or what is wrong with the file."""
    try:
        image = images.read(path)
    except InputError as error:
        return str(error).removeprefix(f"{path} ")
    with Image.open(path) as header:
        orientation = header.getexif().get(ORIENTATION_TAG, 1)
    known = isinstance(orientation, int) and 1 <= orientation <= 8
    return orientation if known else 1, image.height, image.width


def _examples(
    source: str, class_names: tuple[str, ...], listing: Listing, checked: dict
) -> FileExamples:
    files = []
    for label, name in enumerate(class_names):
        paths = listing.get(name, [])
        good = [path for path in paths if not isinstance(checked[path], str)]
        if paths and not good:
            raise InputError(
                f"Class {name!r} of {source!r} has no image that can be read; {paths[0]} "
                f"{checked[paths[0]]}"
            )
        files += [ImageFile(path, label, *checked[path]) for path in good]
    return FileExamples(files)


def _hold_out(
    examples: FileExamples, class_names: tuple[str, ...]
) -> tuple[FileExamples, FileExamples]:
    counts = np.bincount(examples.labels, minlength=len(class_names))
    if counts.min() < 2:
        raise InputError(
            f"Class {class_names[counts.argmin()]!r} has only one image; at least two are needed, "
            "one of them to be held out."
        )
    test_count = max(len(class_names), math.ceil(HELD_OUT_FRACTION * len(examples)))
    train, test = stratified_split(examples.labels, test_count)
    return examples.subset(train), examples.subset(test)
