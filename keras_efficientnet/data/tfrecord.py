"""TFRecord files of images, with the features that TensorFlow's own scripts have written."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_efficientnet.data.folders import class_name
from keras_efficientnet.errors import InputError, reason

ENCODED, LABEL, TEXT = "image/encoded", "image/class/label", "image/class/text"


class TfrecordReader:
    """Reads `tf.train.Example` records: `image/encoded`, and label, text or both of its class.

    Attributes:
        names: class names by label, from the records' texts, as far as they have been read.
    """

    def __init__(self):
        self.names: dict[Any, str] = {}

    def parts(self, path: Path) -> int:
        """A file is read from beginning to end."""
        return 1

    def records(self, path: Path, part: int) -> Iterator[tuple[bytes, int | str | None]]:
        """Yields the content of each image file, and its label; None for none.

        Raises:
            InputError: if the file is damaged, or a record has not these features.
        """
        import tensorflow as tf

        features = {
            ENCODED: tf.io.FixedLenFeature([], tf.string),
            LABEL: tf.io.FixedLenFeature([], tf.int64, -1),
            TEXT: tf.io.FixedLenFeature([], tf.string, ""),
        }
        with tf.device("CPU"):
            records = tf.data.TFRecordDataset(str(path)).map(
                lambda record: tf.io.parse_single_example(record, features)
            )
        try:
            record: Any
            for record in records.as_numpy_iterator():
                yield record[ENCODED], self._label(path, record)
        except tf.errors.InvalidArgumentError:
            raise InputError(
                f"{str(path)!r} has a record without one {ENCODED!r}, or whose {LABEL!r} or "
                f"{TEXT!r} is not a single number and text."
            ) from None
        except (tf.errors.OpError, UnicodeDecodeError) as error:
            raise InputError(f"{str(path)!r} cannot be read: {reason(error)}.") from error

    def _label(self, path: Path, record: dict[str, Any]) -> int | str | None:
        label, text = int(record[LABEL]), class_name(record[TEXT].decode())
        if label < 0:
            return text or None
        if text and self.names.setdefault(label, text) != text:
            raise InputError(
                f"{str(path)!r} calls label {label} {text!r}, and {self.names[label]!r} before."
            )
        return label
