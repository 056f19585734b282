"""Data sets by name, such as `digits` or `folder:DIR`."""

import os
from pathlib import Path

import numpy as np

from keras_efficientnet.data import image_files, images, record_files, tfds
from keras_efficientnet.data.dataset import ArrayExamples, Dataset
from keras_efficientnet.data.splits import HOLDOUT, describe_holdout, stratified_split
from keras_efficientnet.errors import RANGE, InputError, is_range, require

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
    pixel_range: images.PixelRange | None = None,
) -> Dataset:
    """Opens a data set.

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
        pixel_range: values that become black and white of pixels of more than 8 bits, see
            `images.read`.

    Raises:
        InputError: if the source is unknown, missing or empty, or has no image of a class
            that can be decoded.
    """
    require(0 < holdout < 1, "holdout", holdout, "between 0 and 1")
    kind, _, rest = source.partition(":")
    if kind != "tfds" and (train_split or test_split):
        raise InputError(f"Split names go with tfds:NAME data, not with {source!r}.")
    if classes_are_folders and kind != "folder":
        raise InputError(f"--classes-are-folders goes with folder:DIR data, not with {source!r}.")
    if pixel_range is not None:
        require(is_range(pixel_range), "pixel_range", pixel_range, RANGE)
    path = Path(os.path.expanduser(rest))
    if source == "digits":
        return _digits(holdout)
    if kind == "folder" and rest:
        return image_files.from_folder(path, strict, holdout, classes_are_folders, pixel_range)
    if kind == "csv" and rest:
        return image_files.from_csv(path, strict, holdout, pixel_range)
    if kind == "tfds" and rest:
        return tfds.from_name(rest, train_split, test_split, holdout)
    if kind in record_files.KINDS and rest:
        return record_files.from_pattern(kind, str(path), strict, holdout, pixel_range)
    raise InputError(
        f"Unknown data {source!r}; use digits, folder:DIR, csv:FILE, tfds:NAME, tfrecord:PATTERN "
        "or parquet:PATTERN."
    )


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
