"""Image files that are listed, and not opened before it is known which of them are needed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import (
    UNSPLIT,
    Dataset,
    FileExamples,
    LeftOut,
    listing_digest,
    refuse_unusable,
    slug,
)
from keras_efficientnet.data.duplicates import Copies, connected
from keras_efficientnet.data.folders import Listing, Walk, read_splits
from keras_efficientnet.data.groups import (
    group_files,
    links,
    number_groups,
    refuse_divided,
    refuse_single,
)
from keras_efficientnet.data.image_files import open_files
from keras_efficientnet.data.splits import (
    HOLDOUT,
    SPLITS,
    describe_holdout,
    grouped_split,
    require_two,
)
from keras_efficientnet.errors import RANGE, InputError, is_range, require


@dataclass(frozen=True)
class Reading:
    """How files are read; see `sources.load`.

    Raises:
        InputError: if a value is out of its range.
    """

    strict: bool = False
    holdout: float = HOLDOUT
    classes_are_folders: bool = False
    group_by: str = ""
    pixel_range: images.PixelRange | None = None

    def __post_init__(self):
        """Refuses values that nothing can be read by."""
        require(0 < self.holdout < 1, "holdout", self.holdout, "between 0 and 1")
        if self.pixel_range is not None:
            require(is_range(self.pixel_range), "pixel_range", self.pixel_range, RANGE)


@dataclass(frozen=True)
class Listed:
    """Image files by split and class.

    Attributes:
        source: as it was asked for.
        root: folder that paths are told relative to.
        name: short name.
        listings: the files of each class by split; `train` alone where there are no splits.
        split: how the splits came about; None where there is one or none.
        walk: what is not among them.
        named_groups: group of each file that has one, where the source names groups.
    """

    source: str
    root: Path
    name: str
    listings: Mapping[str, Listing]
    split: str | None
    walk: Walk
    named_groups: Mapping[Path, str] = field(default_factory=dict)

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of text, as Keras and torchvision sort folders: 0, 1, 10, 2."""
        return tuple(sorted(set().union(*self.listings.values())))

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits; none where there are none."""
        names = tuple(name for name in SPLITS if name in self.listings)
        return () if names == ("train",) else names

    @cached_property
    def digest(self) -> str:
        """See `Dataset.listing`."""
        return listing_digest(
            sorted(
                f"{label}/{path.name} {_size(path)} {self.named_groups.get(path, '')}".rstrip()
                for listing in self.listings.values()
                for label, paths in listing.items()
                for path in paths
            )
        )

    def open(self, reading: Reading) -> Dataset:
        """Opens all images, to train on some and to be judged on the others.

        Without a held-out split, a share of each class is held out.

        Raises:
            InputError: see `sources.load`.
        """
        train = self.listings["train"]
        if unknown := sorted(set(self.class_names) - set(train)):
            raise InputError(
                f"Class {unknown[0]!r} of the held-out images of {self.source!r} has no training "
                "images."
            )
        groups, notes = self._groups(reading)
        if not self.splits:
            require_two({label: len(paths) for label, paths in train.items()})
            refuse_single(train, groups)
        splits, unusable, remarks = self._examples(self.listings, groups, reading)
        notes += remarks
        if self.splits:
            if "test" not in splits:  # what chooses is what reports, too
                splits["test"] = splits.pop("val")
            notes += _describe_copies(splits, self.class_names)
            return self._dataset(splits, unusable, notes, reading, split=self._given)
        splits, copies = _hold_out(splits["train"], self.class_names, reading.holdout)
        by = "the column group" if self.named_groups else reading.group_by
        return self._dataset(
            splits,
            unusable,
            notes + copies,
            reading,
            split=describe_holdout(reading.holdout, len(set(groups.values())), by),
            holdout=reading.holdout,
            group_by=reading.group_by,
        )

    def open_split(self, split: str, reading: Reading) -> Dataset:
        """Opens the images of one split, or `"all"`, to measure a model on, and no others.

        Raises:
            InputError: see `sources.load`; one image of one class is enough.
        """
        groups, notes = self._groups(reading)
        wanted = {name: each for name, each in self.listings.items() if split in (name, "all")}
        splits, unusable, remarks = self._examples(wanted, groups, reading)
        notes += remarks + _describe_copies(splits, self.class_names)
        if self.splits:
            return self._dataset(splits, unusable, notes, reading, split=self._given)
        return self._dataset({"test": splits["train"]}, unusable, notes, reading, split=UNSPLIT)

    @property
    def _given(self) -> str:
        return self.split or f"{self.splits[0]} alone"

    def _groups(self, reading: Reading) -> tuple[Mapping[Path, str], list[str]]:
        """Returns the group of each file that has one, and notes on those that have none.

        Raises:
            InputError: if one has images in several splits, or they cannot be told.
        """
        if reading.group_by and self.named_groups:
            raise InputError(
                f"Data {self.source!r} have a column group; rename it, or leave --group-by out."
            )
        paths = [
            path for listing in self.listings.values() for part in listing.values() for path in part
        ]
        groups = self.named_groups
        if reading.group_by:
            groups = group_files(paths, self.root, reading.group_by)
        refuse_divided(self.source, self.listings, groups)
        alone = [path for path in paths if path not in groups] if groups else []
        notes = [f"{len(alone)} images belong to no group, such as {alone[0]}."] if alone else []
        return groups, notes

    def _examples(
        self, listings: Mapping[str, Listing], groups: Mapping[Path, str], reading: Reading
    ) -> tuple[dict[str, FileExamples], list[LeftOut], list[str]]:
        """Opens the images of some splits; returns them, what cannot be used, and notes."""
        splits, unusable, notes = open_files(
            self.source, self.class_names, listings, groups, reading.pixel_range
        )
        unusable = self.walk.unreadable + unusable
        if reading.strict:
            count = sum(len(paths) for each in listings.values() for paths in each.values())
            refuse_unusable(self.source, unusable, count)
        return splits, unusable, notes

    def _dataset(
        self,
        splits: Mapping[str, FileExamples],
        unusable: Sequence[LeftOut],
        notes: Sequence[str],
        reading: Reading,
        **how: Any,
    ) -> Dataset:
        return Dataset(
            name=slug(self.name),
            source=self.source,
            class_names=self.class_names,
            train=splits.get("train", FileExamples([])),
            val=splits.get("val"),
            test=splits.get("test", FileExamples([])),
            crop_fraction=images.PHOTO_CROP_FRACTION,
            mirror=True,
            listing=self.digest,
            left_out=(*self.walk.left_out, *unusable),
            notes=(*self.walk.notes(), *notes),
            pixel_range=reading.pixel_range,
            **how,
        )


def list_folder(root: Path, classes_are_folders: bool = False) -> Listed:
    """Lists a folder that has one folder of images for each class.

    If it has folders of splits instead, such as `train` and `val` (see `splits.split_of`),
    these have the class folders. Of three splits, `val` chooses and `test` is held out.

    Args:
        root: of all.
        classes_are_folders: see `sources.load`.

    Raises:
        InputError: if there is no such folder, its splits are ambiguous, or it has no images with
            labels.
    """
    if not root.is_dir():
        raise InputError(f"Data folder {str(root)!r} does not exist.")
    walk = Walk(classes_are_folders)
    listings, split = read_splits(root, walk)
    listed = Listed(f"folder:{root}", root, root.resolve().name, listings, split, walk)
    if not any(listings.values()):
        raise _too_few(listed)
    return listed


def from_folder(root: Path, reading: Reading) -> Dataset:
    """Opens a folder as `list_folder` lists it, to train on.

    Raises:
        InputError: see `sources.load`.
    """
    listed = list_folder(root, reading.classes_are_folders)
    if "train" not in listed.listings:
        raise InputError(
            f"Folder {str(root)!r} has no folder train beside {' and '.join(listed.splits)}; "
            "rename one, or pass --classes-are-folders."
        )
    if len(listed.listings["train"]) < 2:
        raise _too_few(listed)
    return listed.open(reading)


def _too_few(listed: Listed) -> InputError:
    train = listed.listings.get("train", {})
    found = "".join(f" ({name})" for name in train)
    left_out = listed.walk.left_out[:1]
    reasons = "".join(f"; {each.path} {each.reason.rstrip('.')}" for each in left_out)
    return InputError(
        f"Data folder {str(listed.root)!r} must have one folder of images for each of at least two "
        f"classes; it has {len(train)}{found}{reasons}."
    )


def _hold_out(
    examples: FileExamples, class_names: Sequence[str], share: float
) -> tuple[dict[str, FileExamples], list[str]]:
    """Holds a share out, with whole groups and all copies of an image on one side.

    Returns:
        Both splits, and notes on copies.
    """
    labels, count = examples.labels, len(examples)
    counts = np.bincount(labels, minlength=len(class_names))
    require_two(dict(zip(class_names, counts.tolist(), strict=True)))
    groups = number_groups(file.group for file in examples.files)
    copies = Copies.find(examples.files)
    together = connected(count, np.concatenate([links(groups), links(copies.sets)]))
    while True:
        train, test = grouped_split(labels, together, share)
        missing = np.setdiff1d(labels, labels[test])
        if not len(missing):
            break
        # Where a class is made of copies, they are divided, and named below.
        to_divide = np.isin(together, together[np.isin(labels, missing)])
        divided = np.where(to_divide, count + groups, together)
        if (divided == together).all():
            raise InputError(
                f"Class {class_names[missing[0]]!r} cannot be held out in whole groups; it needs "
                "more groups, or groups without images of other classes."
            )
        together = divided
    sides = np.full(count, "train", object)
    sides[test] = "test"
    notes = copies.describe(sides.tolist(), class_names)
    divided = np.intersect1d(copies.sets[train], copies.sets[test])
    if kept := int(
        ((np.bincount(copies.sets)[copies.sets] > 1) & ~np.isin(copies.sets, divided)).sum()
    ):
        notes.append(
            f"{kept} images are copies of one another, or nearly; they were kept on one side."
        )
    return {"train": examples.subset(train), "test": examples.subset(test)}, notes


def _describe_copies(splits: Mapping[str, FileExamples], class_names: Sequence[str]) -> list[str]:
    """Returns notes on copies among images of given splits."""
    files = [file for examples in splits.values() for file in examples.files]
    names = [name for name, examples in splits.items() for _ in examples.files]
    return Copies.find(files).describe(names, class_names)


def _size(path: Path) -> int:
    """Returns the size of a file in bytes; -1 where there is none."""
    try:
        return path.stat().st_size
    except OSError:
        return -1
