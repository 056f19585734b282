"""Data sets by name: `digits`, `folder:DIR` and `tfds:NAME`."""

import math
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from keras_efficientnet.data import images
from keras_efficientnet.errors import InputError, reason

HELD_OUT_FRACTION = 0.2
# 32 would leave one pixel to the last stages, and batch normalization little to go by.
DIGITS_IMAGE_SIZE = 48
IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif"}
TRAIN_FOLDERS = ("train", "training")
TEST_FOLDERS = ("val", "valid", "validation", "test")
ORIENTATION_TAG = 0x0112


class Examples(Protocol):
    """Labelled images of one split."""

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        """Yields decoded RGB images with their class indices, in a fixed order."""
        ...

    def shuffled(self, seed: int) -> Any:
        """Returns a `tf.data.Dataset` of `(uint8 [height, width, 3], class index)`.

        It reshuffles at every iteration, in an order that `seed` fixes.
        """
        ...


@dataclass(frozen=True)
class DataSet:
    """A classification data set.

    Attributes:
        name: short name, fit for a file name.
        source: the text it was asked for by.
        class_names: in the order of the class indices.
        train: images to learn from.
        test: held-out images.
        crop_fraction: centre crop at evaluation, see `images.prepare`.
        mirror: whether a mirrored image still shows the same class.
        image_size: side to train at in pixels where the data suggests one, else None.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train: Examples
    test: Examples
    crop_fraction: float
    mirror: bool
    image_size: int | None = None


def load(source: str, *, train_split: str | None = None, test_split: str | None = None) -> DataSet:
    """Opens a data set.

    Args:
        source: `"digits"`, `"folder:DIR"` or `"tfds:NAME"`.
        train_split: split expression for `tfds:` such as `"train[:80%]"`.
        test_split: likewise for the held-out images.

    Raises:
        InputError: if the source is unknown, missing, empty or holds unreadable images.
    """
    kind, _, rest = source.partition(":")
    if kind != "tfds" and (train_split or test_split):
        raise InputError(f"Split names go with tfds:NAME data, not with {source!r}.")
    if source == "digits":
        return _digits()
    if kind == "folder" and rest:
        return _folder(Path(rest), source)
    if kind == "tfds" and rest:
        return _tfds(rest, source, train_split, test_split)
    raise InputError(f"Unknown data {source!r}; use digits, folder:DIR or tfds:NAME.")


class ArrayExamples:
    """Images of one size, held in memory as uint8 `[count, height, width, 3]`."""

    def __init__(self, pixels: np.ndarray, labels: np.ndarray):
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for pixels, label in zip(self.pixels, self.labels, strict=True):
            yield Image.fromarray(pixels), int(label)

    def shuffled(self, seed: int) -> Any:
        """See `Examples.shuffled`."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensor_slices((self.pixels, self.labels)).shuffle(
            len(self), seed=seed
        )


class FileExamples:
    """Image files, decoded when they are needed.

    Args:
        paths: of the files.
        labels: class index of each.
        orientations: EXIF orientation of each, 1 to 8.
    """

    def __init__(self, paths: list[Path], labels: list[int], orientations: list[int]):
        self.paths, self.labels, self.orientations = paths, labels, orientations

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        yield from zip(in_threads(images.read, self.paths), self.labels, strict=True)

    def shuffled(self, seed: int) -> Any:
        """See `Examples.shuffled`."""
        import tensorflow as tf

        def decode(path, label, orientation):
            image = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
            image.set_shape([None, None, 3])
            return _upright(image, orientation), label

        files = tf.data.Dataset.from_tensor_slices(
            ([str(path) for path in self.paths], self.labels, self.orientations)
        )
        return files.shuffle(len(self), seed=seed).map(decode, num_parallel_calls=tf.data.AUTOTUNE)

    def subset(self, indices: np.ndarray) -> "FileExamples":
        """Returns the examples at these indices."""
        return FileExamples(
            [self.paths[index] for index in indices],
            [self.labels[index] for index in indices],
            [self.orientations[index] for index in indices],
        )


class TfdsExamples:
    """One split of a tensorflow-datasets builder that has been prepared."""

    def __init__(self, builder: Any, split: str):
        self.builder, self.split = builder, split
        try:
            self.count = builder.info.splits[split].num_examples
        except (KeyError, ValueError, AssertionError):
            raise InputError(
                f"Data set {builder.name!r} has no split {split!r}; it has "
                f"{', '.join(builder.info.splits)}."
            ) from None
        if not self.count:
            raise InputError(f"Split {split!r} of data set {builder.name!r} is empty.")

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        for image, label in self._dataset(shuffle_files=False).as_numpy_iterator():
            yield images.read(image), int(label)

    def shuffled(self, seed: int) -> Any:
        """See `Examples.shuffled`."""
        import tensorflow as tf

        def to_rgb(image, label):
            return (image if image.shape[-1] == 3 else tf.image.grayscale_to_rgb(image)), label

        dataset = self._dataset(shuffle_files=True, seed=seed).map(to_rgb)
        return dataset.shuffle(min(self.count, 10_000), seed=seed)

    def _dataset(self, shuffle_files: bool, seed: int | None = None):
        import tensorflow_datasets as tfds

        return self.builder.as_dataset(
            split=self.split,
            as_supervised=True,
            shuffle_files=shuffle_files,
            read_config=tfds.ReadConfig(shuffle_seed=seed),
        )


def in_threads(function: Callable, items: list, workers: int | None = None) -> Iterator:
    """Maps in order over a pool of threads, a bounded number of items ahead."""
    workers = workers or os.cpu_count() or 1
    remaining = iter(items)
    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(function, item) for item in islice(remaining, 4 * workers)]
        while pending:
            yield pending.pop(0).result()
            pending += [pool.submit(function, item) for item in islice(remaining, 1)]


def stratified_split(labels: Any, test_count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the indices to train on and those held out, each in order.

    Every class is held out in proportion, and the split depends on the labels alone, so
    that runs with other seeds can be compared.
    """
    from sklearn.model_selection import train_test_split

    train, test = train_test_split(
        np.arange(len(labels)), test_size=test_count, stratify=labels, random_state=0
    )
    return np.sort(train), np.sort(test)


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)  # [1797, 8, 8]
    # Enlarged here, because a random crop of 8 pixels has too few places to be.
    pixels = np.stack(
        [images.prepare(images.read(image), DIGITS_IMAGE_SIZE, 1.0) for image in grey]
    )
    train, test = stratified_split(digits.target, math.ceil(HELD_OUT_FRACTION * len(pixels)))
    return DataSet(
        name="digits",
        source="digits",
        class_names=tuple(str(name) for name in digits.target_names),
        train=ArrayExamples(pixels[train], digits.target[train]),
        test=ArrayExamples(pixels[test], digits.target[test]),
        crop_fraction=1.0,
        mirror=False,
        image_size=DIGITS_IMAGE_SIZE,
    )


def _folder(root: Path, source: str) -> DataSet:
    if not root.is_dir():
        raise InputError(f"Data folder {str(root)!r} does not exist.")
    train_root = _first_folder(root, TRAIN_FOLDERS)
    test_root = _first_folder(root, TEST_FOLDERS)
    if train_root and test_root:
        class_names = _class_names(train_root)
        train = _read_folder(train_root, class_names)
        test_names = _class_names(test_root)
        if unknown := sorted(set(test_names) - set(class_names)):
            raise InputError(
                f"Class {unknown[0]!r} of {str(test_root)!r} has no folder in {str(train_root)!r}."
            )
        # A class without held-out images is fine; a folder without images is not.
        test = _read_folder(test_root, class_names, present=test_names)
    else:
        class_names = _class_names(train_root or root)
        everything = _read_folder(train_root or root, class_names)
        train, test = _hold_out(everything, class_names)
    return DataSet(
        name=_slug(root.resolve().name),
        source=source,
        class_names=class_names,
        train=train,
        test=test,
        crop_fraction=images.PHOTO_CROP_FRACTION,
        mirror=True,
    )


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _class_names(root: Path) -> tuple[str, ...]:
    names = sorted(
        entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if len(names) < 2:
        raise InputError(
            f"Data folder {str(root)!r} must hold one folder of images for each of at least two "
            f"classes; it has {len(names)}."
        )
    return tuple(names)


def _read_folder(
    root: Path, class_names: tuple[str, ...], present: tuple[str, ...] | None = None
) -> FileExamples:
    """Lists the images of each class and decodes each once, to find bad files early."""
    paths, labels = [], []
    for label, name in enumerate(class_names):
        if present is not None and name not in present:
            continue
        files = sorted(
            path for path in (root / name).rglob("*") if path.suffix.lower() in IMAGE_SUFFIXES
        )
        if not files:
            raise InputError(
                f"Class folder {str(root / name)!r} has no images; "
                f"{', '.join(sorted(IMAGE_SUFFIXES))} files are read."
            )
        paths += files
        labels += [label] * len(files)
    checked = tqdm(
        in_threads(_check, paths),
        total=len(paths),
        desc=f"Checking {root}",
        unit="img",
        leave=False,
    )
    return FileExamples(paths, labels, list(checked))


def _check(path: Path) -> int:
    """Decodes a file as training will, and returns its EXIF orientation."""
    image = images.read(path)
    if min(image.size) < 1:
        raise InputError(f"{path} has no pixels.")
    with Image.open(path) as header:
        if header.format not in ("JPEG", "MPO", "PNG", "BMP", "GIF"):
            raise InputError(
                f"{path} is a {header.format} file; training reads JPEG, PNG, BMP and GIF files."
            )
        return header.getexif().get(ORIENTATION_TAG, 1)


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


def _upright(image, orientation):
    """Undoes an EXIF orientation of 1 to 8; other values, which some files hold, do nothing."""
    import tensorflow as tf

    def turn(mirror: bool, quarter_turns: int):
        turned = tf.image.flip_left_right(image) if mirror else image
        return tf.image.rot90(turned, quarter_turns) if quarter_turns else turned

    # Whether mirrored, then quarter turns counter-clockwise.
    steps = [(False, 0), (True, 0), (False, 2), (True, 2)]
    steps += [(True, 1), (False, 3), (True, 3), (False, 1)]
    branches = [partial(turn, *step) for step in steps]
    return tf.switch_case(orientation - 1, branches, default=lambda: image)


def _tfds(name: str, source: str, train_split: str | None, test_split: str | None) -> DataSet:
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
    except Exception as error:  # many types, one for each way of not finding a data set
        raise InputError(f"tensorflow-datasets cannot open {name!r}: {reason(error)}.") from error
    return from_builder(builder, source, train_split, test_split)


def from_builder(
    builder: Any,
    source: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
) -> DataSet:
    """Makes a data set of a tensorflow-datasets builder, preparing it where it needs that.

    Args:
        builder: such as `tfds.builder("tf_flowers")` or
            `tfds.folder_dataset.ImageFolder("photos")`.
        source: text to remember it by; `tfds:NAME` if None.
        train_split: training images; the split called `train` if None.
        test_split: held-out images; the split called `test` or `validation` if None, or
            20 % of the training split where there is neither.

    Raises:
        InputError: if it does not map images to classes, cannot be prepared, or has no
            such split.
    """
    import tensorflow_datasets as tfds

    features, keys = builder.info.features, builder.info.supervised_keys
    if not (
        keys
        and all(key in features for key in keys)
        and isinstance(features[keys[0]], tfds.features.Image)
        and isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise InputError(f"Data set {builder.name!r} does not map an image to a class label.")
    try:
        builder.download_and_prepare()
    except NotImplementedError:
        pass  # folders of images are ready as they are
    except Exception as error:  # from the network, the disk or the data set's own code
        raise InputError(
            f"tensorflow-datasets cannot prepare {builder.name!r}: {reason(error)}."
        ) from error
    train_split, test_split = _split_names(builder, train_split, test_split)
    return DataSet(
        name=_slug(builder.name),
        source=source or f"tfds:{builder.name}",
        class_names=tuple(features[keys[1]].names),
        train=TfdsExamples(builder, train_split),
        test=TfdsExamples(builder, test_split),
        crop_fraction=images.PHOTO_CROP_FRACTION,
        mirror=True,
    )


def _split_names(builder, train: str | None, test: str | None) -> tuple[str, str]:
    available = list(builder.info.splits)
    if not available:
        raise InputError(f"Data set {builder.name!r} has no splits.")
    if test is None:
        test = next((name for name in TEST_FOLDERS if name in available), None)
    if train is None:
        train = next((name for name in TRAIN_FOLDERS if name in available), available[0])
        if test is None:
            percent = round(100 * HELD_OUT_FRACTION)
            train, test = f"{train}[{percent}%:]", f"{train}[:{percent}%]"
    if test is None:
        raise InputError(
            f"Data set {builder.name!r} has no test split; name one of {', '.join(available)}."
        )
    return train, test


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
