"""Data sets of image files: in a folder for each class, or listed in a CSV file."""

import csv
import hashlib
import io
import itertools
import os
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import Dataset, FileExamples, ImageFile, LeftOut, slug
from keras_efficientnet.data.folders import Listing, Walk, class_name, read_splits
from keras_efficientnet.data.splits import (
    ACCEPTED,
    HOLDOUT,
    SPLITS,
    describe_holdout,
    describe_splits,
    split_of,
    stratified_split,
)
from keras_efficientnet.data.threads import in_threads
from keras_efficientnet.errors import InputError

_KINDS = {"train": "training", "val": "validation", "test": "held-out"}


def from_folder(
    root: Path,
    strict: bool = False,
    holdout: float = HOLDOUT,
    classes_are_folders: bool = False,
    pixel_range: images.PixelRange | None = None,
) -> Dataset:
    """Opens a folder that has one folder of images for each class.

    If it has folders of splits instead, such as `train` and `val` (see `splits.split_of`),
    these have the class folders. Of three splits, `val` chooses and `test` is held out. Without a
    held-out split, a share of each class is held out.

    Args:
        root: of all.
        strict: see `sources.load`.
        holdout: see `sources.load`.
        classes_are_folders: see `sources.load`.
        pixel_range: see `sources.load`.

    Raises:
        InputError: see `sources.load`.
    """
    if not root.is_dir():
        raise InputError(f"Data folder {str(root)!r} does not exist.")
    walk = Walk(classes_are_folders)
    listings, split = read_splits(root, walk)
    if len(train := listings["train"]) < 2:
        found = "".join(f" ({name})" for name in train)
        reasons = "".join(f"; {each.path} {each.reason.rstrip('.')}" for each in walk.left_out[:1])
        raise InputError(
            f"Data folder {str(root)!r} must have one folder of images for each of at least two "
            f"classes; it has {len(train)}{found}{reasons}."
        )
    reading = strict, holdout, pixel_range
    return _from_listings(f"folder:{root}", root.resolve().name, listings, split, walk, *reading)


def from_csv(
    file: Path,
    strict: bool = False,
    holdout: float = HOLDOUT,
    pixel_range: images.PixelRange | None = None,
) -> Dataset:
    """Opens a CSV file that names images and their classes.

    It has a header with the columns `path` and `label`, in any order and beside others.
    Relative paths begin at the file's own folder. A column `split` may say `train`, `val` or
    `test`, in any usual spelling, as in `from_folder`; without it, or if all rows say `train`, a
    share of each class is held out.

    Args:
        file: in UTF-8.
        strict: see `sources.load`.
        holdout: see `sources.load`.
        pixel_range: see `sources.load`.

    Raises:
        InputError: see `sources.load`; of a bad row, with the number of its line.
    """
    walk = Walk()
    listings: dict[str, Listing] = {}
    lines: dict[str, tuple[int, str, str]] = {}
    again = 0
    for line, path, label, split in _rows(file):
        first, *before = lines.setdefault(os.path.abspath(path), (line, label, split))
        if first == line:
            listings.setdefault(split, {}).setdefault(label, []).append(path)
        elif before == [label, split]:
            again += 1
        else:
            raise InputError(
                f"CSV file {str(file)!r} names {str(path)!r} on lines {first} and {line} with "
                "another label or split; an image can have one only."
            )
    if again:
        walk.remarks.append(f"Ignored {again} rows that repeat another row.")
    train = listings.setdefault("train", {})
    if len(train) < 2:
        raise InputError(
            f"CSV file {str(file)!r} must name training images of at least two classes; it names "
            f"{len(train)}."
        )
    marks = [name for name in SPLITS if name in listings]
    split = describe_splits("rows marked", marks)
    reading = strict, holdout, pixel_range
    return _from_listings(f"csv:{file}", file.stem, listings, split, walk, *reading)


def _rows(file: Path) -> Iterator[tuple[int, Path, str, str]]:
    """Yields the number of the line, the path, the label and the split of each row."""
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
        for row in reader:
            path, label, split = (
                (row.get(field, "train") or "").strip() for field in ("path", "label", "split")
            )
            if None in row or not path or not label:
                raise InputError(
                    f"{name}, line {reader.line_num}, must have a path, a label and no more "
                    "values than the first line."
                )
            if not (usual := split_of(split)):
                raise InputError(
                    f"{name}, line {reader.line_num}: split {split!r} must be {ACCEPTED}."
                )
            path = file.parent / os.path.expanduser(path)
            yield reader.line_num, path, class_name(label), usual
    except csv.Error as error:
        line = reader.reader.line_num
        raise InputError(f"{name}, line {line}, cannot be read: {error}.") from None


def _from_listings(
    source: str,
    name: str,
    listings: dict[str, Listing],
    split: str | None,
    walk: Walk,
    strict: bool,
    holdout: float,
    pixel_range: images.PixelRange | None,
) -> Dataset:
    """Makes a data set of files that may be unreadable."""
    train = listings["train"]
    # Classes that are called by numbers keep the order of the numbers.
    in_order = int if all(label.isdecimal() for label in train) else None
    class_names = tuple(sorted(train, key=in_order))
    if unknown := sorted(set().union(*listings.values()) - set(class_names)):
        raise InputError(
            f"Class {unknown[0]!r} of the held-out images of {source!r} has no training images."
        )
    if len(listings) == 1:
        _require_two({label: len(paths) for label, paths in train.items()})
    paths = [path for listing in listings.values() for part in listing.values() for path in part]
    checked = _checked(source, paths, pixel_range, walk)
    unusable = walk.unreadable + [
        LeftOut(str(path), bad) for path, bad in checked.items() if isinstance(bad, str)
    ]
    if unusable and strict:
        raise InputError(
            f"{len(unusable)} of {len(paths)} images of {source!r} cannot be used; the first: "
            f"{unusable[0].path} {unusable[0].reason}"
        )
    splits = {
        name: FileExamples(_files(source, class_names, listing, checked), pixel_range=pixel_range)
        for name, listing in listings.items()
    }
    if len(splits) == 1:
        splits["train"], splits["test"] = _hold_out(splits["train"], class_names, holdout)
    elif "test" not in splits:
        splits["test"] = splits.pop("val")
    for one, other in itertools.combinations([name for name in SPLITS if name in splits], 2):
        if identical := _identical(splits[one].paths, splits[other].paths):
            walk.remarks.append(
                f"{len(identical)} {_KINDS[other]} images are identical to {_KINDS[one]} images, "
                f"such as {identical[0][1]} to {identical[0][0]}."
            )
    return Dataset(
        name=slug(name),
        source=source,
        class_names=class_names,
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        crop_fraction=images.PHOTO_CROP_FRACTION,
        mirror=True,
        split=split or describe_holdout(holdout),
        holdout=None if split else holdout,
        listing=_listing(class_names, splits.values()),
        left_out=(*walk.left_out, *unusable),
        notes=walk.notes(),
        pixel_range=pixel_range,
    )


def _checked(
    source: str, paths: list[Path], pixel_range: images.PixelRange | None, walk: Walk
) -> dict[Path, tuple[int, int, int] | str]:
    """Decodes each file once, to find bad ones before training rather than in it.

    What Pillow warns of is added to the walk's remarks.
    """
    check = partial(_check, pixel_range=pixel_range)
    bar = Bar(total=len(paths), desc=f"Checking {source}", unit="img", leave=False)
    found = {}
    with bar, images.collected_warnings() as warned:
        for path, checked in zip(paths, in_threads(check, paths), strict=True):
            found[path] = checked
            bar.update()
    if warned:
        first, texts = next(iter(sorted(warned.items())))
        walk.remarks.append(
            f"Pillow warns of {len(warned)} images, such as {first}: {texts[0].rstrip('.')}."
        )
    return found


def _check(path: Path, pixel_range: images.PixelRange | None) -> tuple[int, int, int] | str:
    """Returns EXIF orientation, height and width, or what is wrong with the file."""
    try:
        image = images.read(path, pixel_range)
    except InputError as error:
        return str(error).removeprefix(f"{path} ")
    return images.orientation(path), image.height, image.width


def _files(
    source: str, class_names: tuple[str, ...], listing: Listing, checked: dict
) -> list[ImageFile]:
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
    return files


def _hold_out(
    examples: FileExamples, class_names: tuple[str, ...], share: float
) -> tuple[FileExamples, FileExamples]:
    counts = np.bincount(examples.labels, minlength=len(class_names))
    _require_two(dict(zip(class_names, counts.tolist(), strict=True)))
    train, test = stratified_split(examples.labels, share)
    return examples.subset(train), examples.subset(test)


def _identical(train: list[Path], held_out: list[Path]) -> list[tuple[Path, Path]]:
    """Returns each held-out file with a training file of the same bytes."""
    train_sizes, held_out_sizes = (
        [path.stat().st_size for path in paths] for paths in (train, held_out)
    )
    shared = set(train_sizes) & set(held_out_sizes)  # others need not be read
    train, held_out = (
        [path for path, size in zip(paths, sizes, strict=True) if size in shared]
        for paths, sizes in ((train, train_sizes), (held_out, held_out_sizes))
    )
    known = dict(zip(in_threads(_digest, train), train, strict=True))
    digests = zip(held_out, in_threads(_digest, held_out), strict=True)
    return [(known[digest], path) for path, digest in digests if digest in known]


def _listing(class_names: tuple[str, ...], splits: Iterable[FileExamples]) -> str:
    """Returns `Dataset.listing`."""
    entries = sorted(
        f"{class_names[file.label]}/{file.path.name} {file.path.stat().st_size}"
        for examples in splits
        for file in examples.files
    )
    content = "\n".join(entries).encode("utf-8", "surrogateescape")
    return hashlib.sha256(content).hexdigest()


def _digest(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


def _require_two(counts: dict[str, int]) -> None:
    for name, count in counts.items():
        if count < 2:
            raise InputError(
                f"Class {name!r} has only one image; at least two are needed, one of them to be "
                "held out."
            )
