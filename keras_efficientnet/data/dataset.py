"""A labelled data set, and its images in memory or in files."""

import dataclasses
import hashlib
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import images
from keras_efficientnet.data.threads import in_threads
from keras_efficientnet.errors import InputError, RunError, require_choice
from keras_efficientnet.task import SINGLE_LABEL, Task

# Entries of one list that a description shows.
MAX_LISTED = 20
KINDS = {"train": "training", "val": "validation", "test": "held-out", "all": "labelled"}
"""What the images of each split are called."""
UNSPLIT = "without splits"
MEMORY_BYTES = 2**30
"""Files whose decoded pixels fit into this are decoded once for a training run."""

SHUFFLE_BUFFER = 10_000
"""Size of the buffer that shuffles an epoch of a stream, in records; a gigabyte for ImageNet."""


class Examples(Protocol):
    """Labelled images of one split."""

    @property
    def labels(self) -> np.ndarray:
        """Class index of each image, `[count]`, in the order of iteration."""
        ...

    @property
    def known_labels(self) -> np.ndarray | None:
        """`labels`, or None where all images would have to be read for them."""
        ...

    def __len__(self) -> int:
        """Returns the number of images."""
        ...

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        """Yields decoded RGB images with their class indices, in a fixed order."""
        ...

    def some(self, indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        """Yields the images at these ascending indices, without decoding the others."""
        ...

    def stream(self, seed: int, start: int) -> tuple[Any, Callable]:
        """Returns the infinite stream of shuffled images for training.

        An epoch is `len(self)` consecutive images and contains each image once, in an order
        that depends on `seed` and the number of the epoch.

        Args:
            seed: of the order.
            start: position in the stream to start at.

        Returns:
            A `tf.data.Dataset` of records, and a function of TensorFlow operations from a
            record to an image as `crop.random_resized_crop` takes it (uint8
            `[height, width, 3]` or the content of a file), its EXIF orientation, and its
            class index.
        """
        ...


@dataclass(frozen=True)
class LeftOut:
    """A file or folder of a data source that was not used.

    Attributes:
        path: of the file or folder.
        reason: a sentence without its subject, such as "is a folder; an image file is needed."
    """

    path: str
    reason: str


@dataclass(frozen=True)
class ReadingSummary:
    """What was read of a data source and what was not.

    Attributes:
        source: the data set as it was asked for.
        images: number of images by split, of those that were read: `train`, `val` and `test`, or
            `all` where images to measure a model on are not split.
        classes: number of images by split and class; without the splits whose images would have
            to be read for it.
        split: how the splits came about, such as "20 % of each class held out".
        left_out: files and folders that were not used.
        notes: sentences on anything else that the owner of the data may not expect.
    """

    source: str
    images: Mapping[str, int]
    classes: Mapping[str, Mapping[str, int]]
    split: str
    left_out: tuple[LeftOut, ...]
    notes: tuple[str, ...]

    def describe(self) -> str:
        """Returns all of it as text of several lines; of long lists, the beginning."""
        counts = [f"{count:,} {KINDS[name]} images" for name, count in self.images.items()]
        counted = " and ".join(filter(None, [", ".join(counts[:-1]), counts[-1]]))
        lines = [f"Data {self.source}: {counted} ({self.split})."]
        splits = [self.classes[name] for name in self.images if name in self.classes]
        if splits:
            classes = splits[0]
            shown = [
                f"{name} {' + '.join(str(split.get(name, 0)) for split in splits)}"
                for name in classes
            ]
            lines.append(f"Images of {len(classes)} classes: {', '.join(_beginning(shown))}.")
        left_out = [f"Left out {each.path}: {each.reason}" for each in self.left_out]
        return "\n".join([*lines, *self.notes, *_beginning(left_out)])


def _beginning(items: list[str]) -> list[str]:
    more = len(items) - MAX_LISTED
    return items if more <= 0 else [*items[:MAX_LISTED], f"... and {more:,} more"]


@dataclass(frozen=True)
class Origin:
    """How a model's training images can be told again, and from those that were held out.

    Attributes:
        listing: see `Dataset.listing`.
        holdout: see `Dataset.holdout`.
        group_by: see `Dataset.group_by`.
    """

    listing: str = ""
    holdout: float | None = None
    group_by: str = ""


@dataclass(frozen=True)
class Dataset:
    """A classification data set.

    Attributes:
        name: short name, fit for a file name.
        source: as it was asked for, such as "folder:photos".
        class_names: in the order of the class indices.
        train: training images.
        test: held-out images, on which results are reported.
        crop_fraction: centre crop at evaluation, see `images.prepare`.
        mirror: whether a mirrored image still shows the same class.
        val: images that choose, such as the best epoch; None where the held-out ones do.
        image_size: side in pixels to train at, if the data suggest one.
        task: what a label is.
        split: how the splits came about, see `ReadingSummary`.
        holdout: share of each class that was held out because there was no such split; None where
            there was one.
        group_by: what tells the group of a file, see `sources.load`; empty without.
        listing: digest of the names, classes and sizes of the images, wherever they lie, by which
            a model knows the data that it was trained on; empty where there are no files.
        left_out: files and folders that were not used, and why.
        notes: see `ReadingSummary`.
        pixel_range: that its wide pixels were read by, see `images.read`.
    """

    name: str
    source: str
    class_names: tuple[str, ...]
    train: Examples
    test: Examples
    crop_fraction: float
    mirror: bool
    val: Examples | None = None
    image_size: int | None = None
    task: Task = SINGLE_LABEL
    split: str = "as given"
    holdout: float | None = None
    group_by: str = ""
    listing: str = ""
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()
    pixel_range: images.PixelRange | None = None

    @property
    def summary(self) -> ReadingSummary:
        """What was read and what was left out; all that is printed about data comes from it."""
        splits = self.splits
        return ReadingSummary(
            source=self.source,
            images={name: len(examples) for name, examples in splits.items()},
            classes={
                name: dict(zip(self.class_names, counts.tolist(), strict=True))
                for name, examples in splits.items()
                if (labels := examples.known_labels) is not None
                for counts in [np.bincount(labels, minlength=len(self.class_names))]
            },
            split=self.split,
            left_out=self.left_out,
            notes=self.notes,
        )

    @property
    def splits(self) -> dict[str, Examples]:
        """Every split that has images by its name, in the order `train`, `val`, `test`.

        Images that are not split are all in `all`; see `sources.load_measured`.
        """
        if self.split == UNSPLIT:
            return {"all": self.test}
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: examples for name, examples in splits.items() if examples}

    def only(self, split: str) -> "Dataset":
        """Returns the data set with the images of one split, or of `"all"`.

        Raises:
            InputError: if there is no such split.
        """
        require_choice("split", split, (*self.splits, "all"))
        if split == "all":
            return self
        empty = {"train": FileExamples([]), "val": None, "test": FileExamples([])}
        others: dict[str, Any] = {name: each for name, each in empty.items() if name != split}
        return dataclasses.replace(self, **others)

    @property
    def chooser(self) -> str:
        """The split whose images choose: `val` where there is one, else `test`."""
        return "test" if self.val is None else "val"

    def class_weights(self) -> dict[int, float]:
        """Returns weights of the loss by class index that make all classes count alike.

        The weight of a class is `images / (classes * images of the class)`, as in
        scikit-learn's `"balanced"`; its mean over the training images is 1. A class without
        training images has no weight.
        """
        classes, counts = np.unique(self.train.labels, return_counts=True)
        weights = counts.sum() / (len(classes) * counts)
        return dict(zip(classes.tolist(), weights.tolist(), strict=True))


class ArrayExamples:
    """Images of one size, held in memory as uint8 `[count, height, width, 3]`.

    Raises:
        InputError: if the values are no pixels in 0-255.
    """

    def __init__(self, pixels: np.ndarray, labels: np.ndarray):
        images.require_pixels(np.asarray(pixels), "images")
        self.pixels, self.labels = pixels, labels

    @property
    def known_labels(self) -> np.ndarray:
        """See `Examples.known_labels`."""
        return self.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        yield from self.some(range(len(self)))

    def some(self, indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        """See `Examples.some`."""
        for index in indices:
            yield Image.fromarray(self.pixels[index]), int(self.labels[index])

    def subset(self, indices: Sequence[int]) -> "ArrayExamples":
        """Returns the examples at these indices."""
        return ArrayExamples(self.pixels[indices], self.labels[indices])

    def stream(self, seed: int, start: int) -> tuple[Any, Callable]:
        """See `Examples.stream`."""
        import tensorflow as tf

        with tf.device("CPU"):
            pixels, labels = tf.constant(self.pixels), tf.constant(self.labels, tf.int64)
        return _shuffled(len(self), seed, start, lambda index: (pixels[index], 1, labels[index]))


@dataclass(frozen=True)
class ImageFile:
    """A file that Pillow can decode.

    Attributes:
        path: of the file.
        label: class index.
        orientation: by EXIF, 1 to 8.
        height: in pixels, when upright.
        width: likewise.
        fingerprint: by which copies are found, see `duplicates`; empty if unknown.
        group: such as a clip or a patient; empty if the image belongs to none.
    """

    path: Path
    label: int
    orientation: int
    height: int
    width: int
    fingerprint: bytes = b""
    group: str = ""


class FileExamples:
    """Image files.

    For training, they are decoded once if their pixels fit into `memory_bytes`. Otherwise each
    crop is decoded when it is needed: JPEG and PNG files by TensorFlow; other formats, and
    files that TensorFlow cannot read, by Pillow.

    Args:
        files: that Pillow can decode.
        memory_bytes: limit of the pixels kept in memory.
        pixel_range: see `images.read`.
    """

    def __init__(
        self,
        files: list[ImageFile],
        memory_bytes: int = MEMORY_BYTES,
        pixel_range: images.PixelRange | None = None,
    ):
        self.files, self.memory_bytes, self.pixel_range = files, memory_bytes, pixel_range

    @property
    def paths(self) -> list[Path]:
        """Path of each file."""
        return [file.path for file in self.files]

    @property
    def labels(self) -> np.ndarray:
        """See `Examples.labels`."""
        return np.array([file.label for file in self.files], np.int64)

    known_labels = labels

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        yield from self.some(range(len(self)))

    def some(self, indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        """See `Examples.some`."""
        files = [self.files[index] for index in indices]
        decoded = in_threads(self._read, [file.path for file in files])
        yield from zip(decoded, [file.label for file in files], strict=True)

    def subset(self, indices: Iterable[int]) -> "FileExamples":
        """Returns the examples at these indices."""
        files = [self.files[index] for index in indices]
        return FileExamples(files, self.memory_bytes, self.pixel_range)

    def stream(self, seed: int, start: int) -> tuple[Any, Callable]:
        """See `Examples.stream`."""
        return _shuffled(len(self), seed, start, self._at)

    @cached_property
    def _at(self) -> Callable:
        """Returns the record at an index, in TensorFlow operations; see `Examples.stream`."""
        pixels = sum(3 * file.height * file.width for file in self.files)
        return self._in_memory() if pixels <= self.memory_bytes else self._on_disk()

    def _in_memory(self) -> Callable:
        import tensorflow as tf

        shapes = np.array([(file.height, file.width, 3) for file in self.files], np.int64)
        ends = shapes.prod(1).cumsum()
        begins = ends - shapes.prod(1)
        pixels = np.empty(ends[-1], np.uint8)  # all images end to end
        decoded = Bar(
            in_threads(self._read, self.paths), "Decoding", len(self), unit="img", leave=False
        )
        for file, begin, end, image in zip(self.files, begins, ends, decoded, strict=True):
            if (image.height, image.width) != (file.height, file.width):
                raise _changed(file.path)
            pixels[begin:end] = np.asarray(image).ravel()
        with tf.device("CPU"):
            columns = [tf.convert_to_tensor(a) for a in (pixels, begins, ends, shapes, self.labels)]

        def at(index):
            pixels, begins, ends, shapes, labels = columns
            image = tf.reshape(pixels[begins[index] : ends[index]], shapes[index])
            return tf.ensure_shape(image, [None, None, 3]), 1, labels[index]

        return at

    def _on_disk(self) -> Callable:
        import tensorflow as tf

        checks = Bar(
            in_threads(_tensorflow_reads, self.paths),
            "Checking",
            len(self),
            unit="img",
            leave=False,
        )
        by_pillow = [not readable for readable in checks]
        orientations = [
            1 if pillow else file.orientation
            for pillow, file in zip(by_pillow, self.files, strict=True)
        ]
        with tf.device("CPU"):
            columns = [
                tf.constant([os.fsencode(path) for path in self.paths]),
                tf.constant(by_pillow),
                tf.constant(orientations),
                tf.constant(self.labels),
            ]

        def at(index):
            path, pillow, orientation, label = (column[index] for column in columns)
            content = tf.cond(
                pillow,
                lambda: tf.ensure_shape(
                    tf.numpy_function(self._as_bmp, [path], tf.string, stateful=False), []
                ),
                lambda: tf.io.read_file(path),
            )
            return content, orientation, label

        return at

    def _read(self, path: str | os.PathLike) -> Image.Image:
        """Decodes a file that could be decoded before."""
        try:
            return images.read(path, self.pixel_range)
        except InputError as error:
            raise _changed(path) from error

    def _as_bmp(self, path: bytes) -> bytes:
        """Decodes by Pillow to a format that TensorFlow reads at almost no cost."""
        return as_bmp(self._read(os.fsdecode(path)))


def as_bmp(image: Image.Image) -> bytes:
    """Encodes an image in a format that TensorFlow reads at almost no cost."""
    content = io.BytesIO()
    image.save(content, "BMP")
    return content.getvalue()


def refuse_unusable(source: str, unusable: Sequence[LeftOut], count: int) -> None:
    """Refuses data some of whose images cannot be used.

    Args:
        source: the data set as it was asked for.
        unusable: images that cannot be used.
        count: of all images.

    Raises:
        InputError: if there are any; it names the first.
    """
    if unusable:
        raise InputError(
            f"{len(unusable)} of {count} images of {source!r} cannot be used; the first: "
            f"{unusable[0].path} {unusable[0].reason}"
        )


def listing_digest(lines: Iterable[str]) -> str:
    """Returns `Dataset.listing` for lines that tell data from others."""
    content = "\n".join(lines).encode("utf-8", "surrogateescape")
    return hashlib.sha256(content).hexdigest()


def slug(name: str) -> str:
    """Returns a text that is safe in a file name."""
    return re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"


def _shuffled(count: int, seed: int, start: int, at: Callable) -> tuple[Any, Callable]:
    """Makes `Examples.stream` of a function from an index to its record."""
    import tensorflow as tf

    def decode(position):
        epoch = tf.stack([tf.constant(seed, tf.int64), position // count])
        last = tf.constant(count - 1, tf.int64)
        shuffle = tf.random.experimental.index_shuffle  # pyright: ignore
        return at(shuffle(position % count, epoch, last))

    return tf.data.Dataset.counter(start), decode


def shuffled_epochs(count: int, seed: int, start: int, records: Callable) -> Any:
    """Makes the records of `Examples.stream` of what can only be read from its beginning.

    Args:
        count: records of an epoch.
        seed: of the order.
        start: position in the stream to start at; records before it are read and left.
        records: from the number of an epoch and a random number drawn for it, int tensors, to a
            `tf.data.Dataset` of its records.
    """
    import tensorflow as tf

    def epoch(number):
        # The seed of this graph, which TensorFlow mixes into the seeds of `shuffle`.
        tf.compat.v1.set_random_seed(1)
        key = tf.stack([tf.constant(seed, tf.int64), number])
        draw = tf.random.stateless_uniform([], key, 0, 2**31 - 1, tf.int64)
        return records(number, draw).shuffle(min(count, SHUFFLE_BUFFER), seed=draw)

    return tf.data.Dataset.counter(start // count).flat_map(epoch).skip(start % count)


def _changed(path: str | os.PathLike) -> RunError:
    return RunError(f"{os.fspath(path)} was changed while it was in use; start again.")


def _tensorflow_reads(path: Path) -> bool:
    return tensorflow_reads(path.read_bytes())


def tensorflow_reads(content: bytes) -> bool:
    """Returns whether TensorFlow decodes a file's content to the pixels that Pillow gives."""
    import tensorflow as tf

    # Other formats go to Pillow: TensorFlow takes a BMP file's palette for grey levels, and knows
    # no range of PNG files of 16 bits, of which byte 24 is the depth.
    png = content.startswith(b"\x89PNG")
    if not content.startswith(b"\xff\xd8\xff") and not (png and content[24:25] != b"\x10"):
        return False
    try:
        with tf.device("CPU"):
            tf.io.decode_image(content, channels=3)
    except tf.errors.OpError:
        return False
    return True
