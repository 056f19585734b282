"""Data sets in files of many records: TFRecord, and Parquet as Hugging Face writes it.

The files are read once before training, to find images that cannot be decoded, and then from
beginning to end in every epoch. What is kept of a record is its label and a few bytes.
"""

import fnmatch
import glob
import hashlib
import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from PIL import Image

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import (
    Dataset,
    LeftOut,
    as_bmp,
    listing_digest,
    refuse_unusable,
    shuffled_epochs,
    slug,
    tensorflow_reads,
)
from keras_efficientnet.data.listing import Reading
from keras_efficientnet.data.parquet import ParquetReader
from keras_efficientnet.data.splits import (
    SPLITS,
    describe_holdout,
    describe_splits,
    require_two,
    split_of,
    stratified_split,
)
from keras_efficientnet.data.tfrecord import TfrecordReader
from keras_efficientnet.data.threads import in_threads
from keras_efficientnet.errors import InputError, RunError


class Reader(Protocol):
    """Reads the records of one kind of file.

    Attributes:
        names: class names by label, as far as the files tell them.
    """

    names: dict[Any, str]

    def parts(self, path: Path) -> int:
        """Returns the number of parts of a file that can be read by themselves."""
        ...

    def records(self, path: Path, part: int) -> Iterator[tuple[bytes, int | str | None]]:
        """Yields the content of each image file, and its label; None for none."""
        ...


# The reader of each kind of source, and the files of a folder that are of this kind.
KINDS: dict[str, tuple[type[Reader], str]] = {
    "tfrecord": (TfrecordReader, "*tfrecord*"),
    "parquet": (ParquetReader, "*.parquet"),
}


def from_pattern(kind: str, pattern: str, reading: Reading) -> Dataset:
    """Opens files of many labelled images.

    A file belongs to a split that its name contains, such as `train-00000-of-00002.parquet`, or
    else the name of its folder. Without a held-out split, a share of each class is held out.

    Args:
        kind: one of `KINDS`.
        pattern: of the files, such as `"flowers/*.parquet"`; or a folder of them.
        reading: how.

    Raises:
        InputError: see `sources.load`.
    """
    source, (reader_of, usual) = f"{kind}:{pattern}", KINDS[kind]
    found = _inside(pattern, usual) if os.path.isdir(pattern) else map(Path, glob.glob(pattern))
    if not (paths := sorted(path for path in found if path.is_file())):
        raise InputError(f"There are no files of {source!r}.")
    of_file, reader = _splits(paths), reader_of()
    shards = [(path, part) for path in paths for part in range(reader.parts(path))]
    scan = _scan(source, reader, shards, reading.pixel_range)
    if reading.strict:
        refuse_unusable(source, scan.unusable, len(scan.labels))
    class_names, labels = _classes(source, scan.labels, reader.names)
    records = Records(reader, shards, labels, scan, reading.pixel_range)
    of_record = np.repeat([of_file[path] for path, _ in shards], scan.counts)
    places = {name: np.flatnonzero((labels >= 0) & (of_record == name)) for name in SPLITS}
    splits = {name: RecordExamples(records, at) for name, at in places.items() if len(at)}
    _check_classes(source, splits, class_names)
    split, notes = describe_splits("files named", list(splits)), _notes(scan, splits, class_names)
    if len(splits) == 1:
        splits["train"], splits["test"] = splits["train"].held_out(reading.holdout)
    elif "test" not in splits:
        splits["test"] = splits.pop("val")
    folder = Path(pattern) if os.path.isdir(pattern) else paths[0].parent
    return Dataset(
        name=slug(folder.resolve().name),
        source=source,
        class_names=class_names,
        train=splits["train"],
        val=splits.get("val"),
        test=splits["test"],
        crop_fraction=images.PHOTO_CROP_FRACTION,
        mirror=True,
        split=split or describe_holdout(reading.holdout),
        holdout=None if split else reading.holdout,
        listing=_listing(class_names, paths),
        left_out=tuple(scan.unusable),
        notes=notes,
        pixel_range=reading.pixel_range,
    )


@dataclass(frozen=True)
class Scan:
    """What one reading of all records tells of each, in their order.

    Attributes:
        counts: number of records of each shard.
        labels: as they stand in the files; None where there is none, or no image.
        orientations: by EXIF, int `[records]`.
        by_pillow: whether TensorFlow cannot decode the image, bool `[records]`.
        digests: of the images' content, int64 `[records]`.
        unusable: records that are no images.
        unlabelled: number of records without a label.
    """

    counts: list[int]
    labels: list[int | str | None]
    orientations: np.ndarray
    by_pillow: np.ndarray
    digests: np.ndarray
    unusable: list[LeftOut]
    unlabelled: int


class Records:
    """All records of a source, and what is known of them.

    Args:
        reader: of the files.
        shards: path and part of everything that is read from beginning to end.
        labels: class index of each record; -1 where it is not used.
        scan: of the records.
        pixel_range: see `images.read`.
    """

    def __init__(
        self,
        reader: Reader,
        shards: Sequence[tuple[Path, int]],
        labels: np.ndarray,
        scan: Scan,
        pixel_range: images.PixelRange | None,
    ):
        self.reader, self.shards, self.labels = reader, shards, labels
        self.scan, self.pixel_range = scan, pixel_range
        self.starts = np.concatenate([[0], np.cumsum(scan.counts)])

    def read(self, wanted: np.ndarray, order: Iterable[int]) -> Iterator[tuple[int, bytes]]:
        """Yields number and content of records, shard by shard.

        Args:
            wanted: numbers of the records, ascending.
            order: of the shards.
        """
        for shard in order:
            start, end = self.starts[shard], self.starts[shard + 1]
            low, high = np.searchsorted(wanted, [start, end])
            inside = set((wanted[low:high] - start).tolist())
            if not inside:
                continue
            for place, (content, _) in enumerate(self.reader.records(*self.shards[shard])):
                if place in inside:
                    yield int(start) + place, content

    def decode(self, content: bytes) -> Image.Image:
        """Decodes the content of a record that could be decoded before."""
        try:
            return images.read(content, self.pixel_range)
        except InputError as error:
            raise RunError("The files were changed while they were in use; start again.") from error


class RecordExamples:
    """Images of one split.

    Args:
        records: of all splits.
        chosen: numbers of this split's records, ascending.
    """

    def __init__(self, records: Records, chosen: np.ndarray):
        self.records, self.chosen = records, chosen

    @property
    def labels(self) -> np.ndarray:
        """See `Examples.labels`."""
        return self.records.labels[self.chosen]

    known_labels = labels

    def __len__(self) -> int:
        return len(self.chosen)

    def __iter__(self) -> Iterator[tuple[Image.Image, int]]:
        yield from self.some(range(len(self)))

    def some(self, indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        """See `Examples.some`."""
        records = self.records
        wanted = self.chosen[np.asarray(indices, np.int64)]
        read = records.read(wanted, range(len(records.shards)))
        yield from in_threads(
            lambda found: (records.decode(found[1]), int(records.labels[found[0]])), read
        )

    def held_out(self, share: float) -> tuple["RecordExamples", "RecordExamples"]:
        """Returns two parts, the second with a share of each class."""
        parts = stratified_split(self.labels, share)
        train, test = (RecordExamples(self.records, self.chosen[part]) for part in parts)
        return train, test

    def stream(self, seed: int, start: int) -> tuple[Any, Callable]:
        """See `Examples.stream`. Shards are shuffled, and records in a buffer."""
        import tensorflow as tf

        records = self.records

        def read(number):
            rng = np.random.default_rng([seed % 2**32, int(number)])
            for index, content in records.read(self.chosen, rng.permutation(len(records.shards))):
                pillow = records.scan.by_pillow[index]
                orientation = 1 if pillow else records.scan.orientations[index]
                yield content, pillow, orientation, records.labels[index]

        signature = tuple(
            tf.TensorSpec([], kind) for kind in (tf.string, tf.bool, tf.int32, tf.int64)
        )

        def epoch(number, draw):
            return tf.data.Dataset.from_generator(read, args=(number,), output_signature=signature)

        def decode(record):
            content, pillow, orientation, label = record
            decoded = tf.cond(
                pillow,
                lambda: tf.ensure_shape(
                    tf.numpy_function(
                        lambda found: as_bmp(records.decode(found)),
                        [content],
                        tf.string,
                        stateful=False,
                    ),
                    [],
                ),
                lambda: content,
            )
            return decoded, orientation, label

        return shuffled_epochs(len(self), seed, start, epoch), decode


def _inside(root: str, usual: str) -> Iterator[Path]:
    """Yields the files of a kind in a folder, at any depth."""

    def fail(error: OSError):
        raise InputError(f"Folder {str(error.filename)!r} cannot be read: {error.strerror}.")

    for folder, _, names in os.walk(root, onerror=fail):
        yield from (Path(folder, name) for name in fnmatch.filter(names, usual))


def _splits(paths: Sequence[Path]) -> dict[Path, str]:
    """Returns the split of each file, by its name or that of its folder."""
    found: dict[Path, str | None] = {}
    for path in paths:
        words = re.split(r"[\W_]|\d+", path.name)
        named = {split_of(word) for word in words} - {None} or {
            split_of(path.absolute().parent.name)
        }
        if len(named) > 1:
            raise InputError(f"The name of {str(path)!r} has several splits; rename it.")
        found[path] = named.pop()
    if not any(found.values()):
        return dict.fromkeys(paths, "train")
    if without := [path for path, split in found.items() if split is None]:
        raise InputError(
            f"The name of {str(without[0])!r} has no split and those of other files have; rename "
            "it, or name fewer files."
        )
    if "train" not in found.values():
        raise InputError(f"No file has the split train; {str(paths[0])!r} has {found[paths[0]]}.")
    return {path: split for path, split in found.items() if split}


def _scan(
    source: str,
    reader: Reader,
    shards: Sequence[tuple[Path, int]],
    pixel_range: images.PixelRange | None,
) -> Scan:
    """Reads and decodes everything once."""
    counts, labels, columns = [0] * len(shards), [], []
    unusable: list[LeftOut] = []
    unlabelled = 0

    def everything():
        for number, shard in enumerate(shards):
            for content, label in reader.records(*shard):
                yield number, content, label

    with Bar(desc=f"Checking {source}", unit="img", leave=False) as bar:
        for number, label, checked in in_threads(partial(_check, pixel_range), everything()):
            bar.update()
            if isinstance(checked, str):
                where = f"{shards[number][0]}, record {_place(shards, counts, number)}"
                unusable.append(LeftOut(where, checked))
                label, checked = None, (1, False, 0)
            else:
                unlabelled += label is None
            counts[number] += 1
            labels.append(label)
            columns.append(checked)
    orientations, by_pillow, digests = np.array(columns, np.int64).reshape(-1, 3).T
    return Scan(counts, labels, orientations, by_pillow.astype(bool), digests, unusable, unlabelled)


def _place(shards: Sequence[tuple[Path, int]], counts: Sequence[int], shard: int) -> int:
    """Returns the number, from 0, of the record of its file that comes next in a shard."""
    return sum(
        count for (path, _), count in zip(shards, counts, strict=True) if path == shards[shard][0]
    )


def _check(
    pixel_range: images.PixelRange | None, found: tuple[int, bytes, Any]
) -> tuple[int, Any, tuple[int, bool, int] | str]:
    """Returns the shard, the label, and what `Scan` keeps or what is wrong with the image."""
    number, content, label = found
    try:
        images.read(content, pixel_range)
    except InputError as error:
        return number, label, str(error).removeprefix("The image ")
    digest = hashlib.blake2b(content, digest_size=8).digest()
    kept = images.orientation(content), not tensorflow_reads(content)
    return number, label, (*kept, int.from_bytes(digest, "big", signed=True))


def _classes(
    source: str, found: Sequence[int | str | None], names: dict[Any, str]
) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the class names, in the order of the labels, and each record's class index or -1."""
    known = sorted({*names, *found} - {None}, key=lambda label: (isinstance(label, str), label))
    class_names = tuple(names.get(label, str(label)) for label in known)
    if repeated := [name for name, count in Counter(class_names).items() if count > 1]:
        raise InputError(f"Two labels of {source!r} have the class name {repeated[0]!r}.")
    indices = {label: index for index, label in enumerate(known)}
    return class_names, np.array([indices.get(label, -1) for label in found], np.int64)


def _check_classes(
    source: str, splits: dict[str, RecordExamples], class_names: tuple[str, ...]
) -> None:
    """Refuses splits that cannot be trained on."""
    if "train" not in splits or len(trained := set(splits["train"].labels.tolist())) < 2:
        raise InputError(f"{source!r} must have training images of at least two classes.")
    for name, examples in splits.items():
        if untrained := sorted(set(examples.labels.tolist()) - trained):
            raise InputError(
                f"Class {class_names[untrained[0]]!r} of the {name} images of {source!r} has no "
                "training images."
            )
    if len(splits) == 1:
        counts = Counter(splits["train"].labels.tolist())
        require_two({class_names[label]: counts[label] for label in sorted(counts)})


def _notes(
    scan: Scan, splits: dict[str, RecordExamples], class_names: tuple[str, ...]
) -> tuple[str, ...]:
    notes = []
    if scan.unlabelled:
        notes.append(f"Left out {scan.unlabelled} images without a label.")
    used = np.unique(np.concatenate([examples.labels for examples in splits.values()] or [[]]))
    if empty := [name for index, name in enumerate(class_names) if index not in used]:
        notes.append(f"Classes without images: {', '.join(empty[:20])}.")
    for one, other in itertools.combinations(splits, 2):
        digests = [scan.digests[splits[name].chosen] for name in (one, other)]
        if identical := int(np.isin(digests[1], digests[0]).sum()):
            notes.append(f"{identical} images of {other} are identical to images of {one}.")
    return tuple(notes)


def _listing(class_names: tuple[str, ...], paths: Sequence[Path]) -> str:
    """Returns `Dataset.listing`."""
    files = sorted(f"{path.name} {path.stat().st_size}" for path in paths)
    return listing_digest([*class_names, *files])
