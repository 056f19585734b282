"""Data sets by name, such as `digits` or `folder:DIR`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_efficientnet.data import csv_files, images, listing, record_files, tfds
from keras_efficientnet.data.dataset import ArrayExamples, Dataset, Origin
from keras_efficientnet.data.listing import Reading
from keras_efficientnet.data.splits import HOLDOUT, describe_holdout, stratified_split
from keras_efficientnet.errors import InputError, require_choice

# At 32 pixels, the last stages would have one pixel and batch normalization few samples.
DIGITS_IMAGE_SIZE = 48


def load(
    source: str,
    *,
    train_split: str | None = None,
    test_split: str | None = None,
    strict: bool = False,
    holdout: float = HOLDOUT,
    classes_are_folders: bool = False,
    group_by: str = "",
    pixel_range: images.PixelRange | None = None,
) -> Dataset:
    """Opens a data set, to train on some of its images and to be judged on the others.

    Args:
        source: `"digits"`, `"folder:DIR"`, `"csv:FILE"`, `"tfds:NAME"`, `"tfrecord:PATTERN"` or
            `"parquet:PATTERN"`.
        train_split: split expression for `tfds:` such as `"train[:80%]"`.
        test_split: likewise for the held-out images.
        strict: refuse a folder or CSV file with images that cannot be decoded, instead of
            leaving them out and naming them in `Dataset.left_out`.
        holdout: share of each class to hold out where the data have no held-out split.
        classes_are_folders: with `folder:`, take folders called train, test and the like for
            classes.
        group_by: with `folder:` and `csv:`, tells which images belong together and stay on one side
            of every split: `"parent"` for those of one folder name, or a regular expression that is
            searched in the path; see `groups.group_files`. A CSV file may have a column `group`
            instead.
        pixel_range: values that become black and white of pixels of more than 8 bits, see
            `images.read`.

    Raises:
        InputError: if the source is unknown, missing or empty, or has no image of a class
            that can be decoded; or if a group cannot be kept together.
    """
    reading = Reading(strict, holdout, classes_are_folders, group_by, pixel_range)
    names = {"train_split": train_split, "test_split": test_split}
    path = _path(source, reading, {**names, "classes_are_folders": classes_are_folders})
    if source == "digits":
        return _digits(holdout)
    if source.startswith("folder:"):
        return listing.from_folder(path, reading)
    if source.startswith("csv:"):
        return csv_files.from_csv(path, reading)
    if (kind := source.partition(":")[0]) in record_files.KINDS:
        return record_files.from_pattern(kind, str(path), reading)
    return tfds.from_name(source.removeprefix("tfds:"), train_split, test_split, holdout)


def load_measured(
    source: str,
    split: str | None = None,
    *,
    origin: Origin | None = None,
    holdout: float | None = None,
    group_by: str | None = None,
    **options: Any,
) -> Dataset:
    """Opens those images of a data set that a model is to be measured on.

    Of folders and CSV files no others are opened, except to tell which images were held out of data
    without splits. One image of one class is enough.

    Args:
        source: as of `load`.
        split: `"train"`, `"val"`, `"test"` or `"all"`. If None, the test split, else `val`; of data
            without splits all images, or those held out in training where the model was trained on
            these.
        origin: of the model; None if unknown.
        holdout: as of `load`; if None, the model's where it was trained on these data.
        group_by: likewise.
        options: others of `load`.

    Returns:
        A data set that has these images and no others, by their split; or as `all` where they are
        not split.

    Raises:
        InputError: see `load`; also if there is no such split, or if the images that were held out
            are asked for with another `holdout` or `group_by`.
    """
    given = {"holdout": holdout, "group_by": group_by}
    given = {name: value for name, value in given.items() if value is not None}
    if not source.startswith(("folder:", "csv:")):
        return load(source, **options, **given).only(split or "test")
    path = _path(source, Reading(**given), options)
    if source.startswith("csv:"):
        listed = csv_files.list_csv(path)
    else:
        listed = listing.list_folder(path, options.get("classes_are_folders", False))
    trained_on = origin if origin and origin.listing == listed.digest else None
    usual = next((name for name in ("test", "val") if name in listed.splits), None)
    split = split or usual or ("test" if trained_on else "all")
    require_choice("split", split, (*(listed.splits or ("train", "test")), "all"))
    if listed.splits or split == "all":
        reading = Reading(
            options.get("strict", False),
            group_by=group_by or "",
            pixel_range=options.get("pixel_range"),
        )
        return listed.open_split(split, reading)
    if trained_on:
        for name, value in given.items():
            if value != (before := getattr(trained_on, name)):
                raise InputError(
                    f"The model was trained on these images with {name}={before!r}; leave "
                    f"{name}={value!r} out, or it would be measured on some of them."
                )
        given = {"holdout": trained_on.holdout or HOLDOUT, "group_by": trained_on.group_by}
    return load(source, **options, **given).only(split)


def _path(source: str, reading: Reading, options: Mapping[str, Any]) -> Path:
    """Returns the path in a source's name.

    Raises:
        InputError: if there is no such kind of source, or options do not go with it.
    """
    kind, _, rest = source.partition(":")
    if kind != "tfds" and (options.get("train_split") or options.get("test_split")):
        raise InputError(f"Split names go with tfds:NAME data, not with {source!r}.")
    if options.get("classes_are_folders") and kind != "folder":
        raise InputError(f"--classes-are-folders goes with folder:DIR data, not with {source!r}.")
    if reading.group_by and kind not in ("folder", "csv"):
        raise InputError(f"--group-by goes with folder:DIR and csv:FILE, not with {source!r}.")
    if not (
        source == "digits" or (rest and kind in ("folder", "csv", "tfds", *record_files.KINDS))
    ):
        raise InputError(
            f"Unknown data {source!r}; use digits, folder:DIR, csv:FILE, tfds:NAME, "
            "tfrecord:PATTERN or parquet:PATTERN."
        )
    return Path(os.path.expanduser(rest))


def _digits(holdout: float) -> Dataset:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    # Enlarged before cropping, because an image of 8 pixels has few different crops.
    pixels = np.stack(
        [images.prepare(images.read(image), DIGITS_IMAGE_SIZE, 1.0) for image in grey]
    )
    train, test = stratified_split(digits.target, holdout)
    return Dataset(
        name="digits",
        source="digits",
        class_names=tuple(str(name) for name in digits.target_names),
        train=ArrayExamples(pixels[train], digits.target[train]),
        test=ArrayExamples(pixels[test], digits.target[test]),
        crop_fraction=1.0,
        mirror=False,
        image_size=DIGITS_IMAGE_SIZE,
        split=describe_holdout(holdout),
    )
