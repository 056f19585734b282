"""Data sets of tensorflow-datasets."""

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import images
from keras_efficientnet.data.dataset import Dataset, shuffled_epochs, slug
from keras_efficientnet.data.folders import class_name
from keras_efficientnet.data.splits import HOLDOUT, split_of
from keras_efficientnet.data.threads import in_threads
from keras_efficientnet.errors import InputError, reason


def from_name(
    name: str,
    train_split: str | None = None,
    test_split: str | None = None,
    holdout: float = HOLDOUT,
) -> Dataset:
    """Opens a data set of the catalogue, and downloads and prepares it if necessary.

    Args:
        name: such as `"cifar10"` or `"imagenet2012:5.1.0"`.
        train_split: see `from_builder`.
        test_split: likewise.
        holdout: likewise.

    Raises:
        InputError: if there is none of that name; also see `from_builder`.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name)
    except Exception as error:  # many types, one for each way of not finding a data set
        raise InputError(f"tensorflow-datasets cannot open {name!r}: {reason(error)}.") from error
    return from_builder(builder, f"tfds:{name}", train_split, test_split, holdout)


def from_builder(
    builder: Any,
    source: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    holdout: float = HOLDOUT,
) -> Dataset:
    """Makes a data set of a tensorflow-datasets builder, and prepares it if necessary.

    Args:
        builder: such as `tfds.builder("tf_flowers")` or
            `tfds.folder_dataset.ImageFolder("photos")`.
        source: for `Dataset.source`; `tfds:NAME` if None.
        train_split: training images; the split called `train` if None.
        test_split: held-out images; the split called `validation` or `test` if None, or
            a share of the training split where there is neither.
        holdout: this share, rounded to whole percents.

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
        # ImageNet, among others, has to be fetched by hand; this says which files and where to.
        by_hand = " ".join((builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").split())
        why = f"{reason(error)} {by_hand}".strip().rstrip(".")
        raise InputError(f"tensorflow-datasets cannot prepare {builder.name!r}: {why}.") from error
    given = test_split
    train_split, test_split = _split_names(builder, train_split, test_split, holdout)
    tests = [name for name in builder.info.splits if split_of(name) == "test"]
    unused = [] if given else [name for name in tests if name != test_split]
    return Dataset(
        name=slug(builder.name),
        source=source or f"tfds:{builder.name}",
        class_names=tuple(map(class_name, features[keys[1]].names)),
        train=TfdsExamples(builder, train_split),
        test=TfdsExamples(builder, test_split),
        crop_fraction=images.PHOTO_CROP_FRACTION,
        mirror=True,
        split=f"splits {train_split} and {test_split}",
        # Some have labels and some do not.
        notes=tuple(f"Split {name} is not used; --test-split {name} takes it." for name in unused),
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
        yield from self.some(range(len(self)))

    def some(self, indices: Sequence[int]) -> Iterator[tuple[Image.Image, int]]:
        """See `Examples.some`."""
        chosen = set(indices)
        records = enumerate(self._dataset().as_numpy_iterator())
        encoded = (record for index, record in records if index in chosen)
        yield from in_threads(lambda record: (images.read(record[0]), int(record[1])), encoded)

    @property
    def labels(self) -> np.ndarray:
        """See `Examples.labels`. The whole split is read once for them."""
        return self._labels

    @property
    def known_labels(self) -> np.ndarray | None:
        """See `Examples.known_labels`."""
        return vars(self).get("_labels")

    @cached_property
    def _labels(self) -> np.ndarray:
        records = self._dataset().map(lambda _, label: label).as_numpy_iterator()
        return np.array(
            [int(label) for label in Bar(records, "Counting", self.count, leave=False)], np.int64
        )

    def stream(self, seed: int, start: int) -> tuple[Any, Callable]:
        """See `Examples.stream`.

        The files of tensorflow-datasets have no random access by default, so an epoch is read
        from its beginning, and images before `start` are skipped without decoding them.
        """

        def epoch(number, draw):
            return self._dataset(shuffle_seed=draw)

        return shuffled_epochs(self.count, seed, start, epoch), _content

    def _dataset(self, shuffle_seed: Any = None):
        """Opens the encoded images with their labels."""
        import tensorflow_datasets as tfds

        image_key, _ = self.builder.info.supervised_keys
        return self.builder.as_dataset(
            split=self.split,
            as_supervised=True,
            decoders={image_key: tfds.decode.SkipDecoding()},
            shuffle_files=shuffle_seed is not None,
            read_config=tfds.ReadConfig(shuffle_seed=shuffle_seed, try_autocache=False),
        )


def _content(record):
    image, label = record
    return image, 1, label


def _split_names(builder, train: str | None, test: str | None, holdout: float) -> tuple[str, str]:
    available = list(builder.info.splits)
    usual: dict[str | None, str] = {split_of(name): name for name in reversed(available)}
    if not available:
        raise InputError(f"Data set {builder.name!r} has no splits.")
    if test is None:
        test = usual.get("val", usual.get("test"))
    if train is None:
        train = usual.get("train") or str(available[0])
        if test is None:
            percent = min(max(round(100 * holdout), 1), 99)
            train, test = f"{train}[{percent}%:]", f"{train}[:{percent}%]"
    if test is None:
        raise InputError(
            f"Data set {builder.name!r} has no test split; name one of {', '.join(available)}."
        )
    return train, test
