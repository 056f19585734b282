"""Parquet files of images, as Hugging Face's `datasets` writes them."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from keras_efficientnet.data.folders import class_name
from keras_efficientnet.errors import InputError, reason

# Records that are in memory at once.
BATCH = 64


class ParquetReader:
    """Reads a struct column of an image's `bytes` or `path`, and a column of its label.

    Attributes:
        names: class names by label, where the schema has them.
    """

    def __init__(self):
        self.names: dict[Any, str] = {}
        self._columns: dict[Path, tuple[str, str]] = {}

    def parts(self, path: Path) -> int:
        """Returns the number of row groups, and reads the schema.

        Raises:
            InputError: if the file cannot be read, or has no such columns.
        """
        with _opened(path) as file:
            schema = file.schema_arrow
            features = _features(schema)
            image = _column(path, schema.names, "image", _images(schema, features))
            labels = [name for name in features if features[name].get("_type") == "ClassLabel"]
            label = _column(path, schema.names, "label", labels)
            names = features.get(label, {}).get("names") or ()
            for index, name in enumerate(names):
                if self.names.setdefault(index, class_name(name)) != class_name(name):
                    raise InputError(f"{str(path)!r} has other class names than the files before.")
            self._columns[path] = image, label
            return file.num_row_groups

    def records(self, path: Path, part: int) -> Iterator[tuple[bytes, int | str | None]]:
        """Yields the content of each image file, and its label; None for none.

        Content that is neither there nor in a file of that path is empty.
        """
        image, label = columns = self._columns[path]
        with _opened(path) as file:
            for batch in file.iter_batches(BATCH, [part], columns=list(columns)):
                found = zip(batch.column(image), batch.column(label), strict=True)
                for each, value in ((one.as_py(), other.as_py()) for one, other in found):
                    yield _content(path, each or {}), _label(value)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise InputError("Parquet files need pyarrow; run: pip install pyarrow.") from None
    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (OSError, ArrowException) as error:
        raise InputError(f"{str(path)!r} cannot be read: {reason(error)}.") from error


def _features(schema: Any) -> dict[str, dict]:
    """Returns what `datasets` has noted of each column; nothing where it has not."""
    try:
        found = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
        return {name: kind for name, kind in found.items() if isinstance(kind, dict)}
    except (KeyError, TypeError, ValueError, AttributeError):
        return {}


def _images(schema: Any, features: dict[str, dict]) -> list[str]:
    """Returns the columns of images: of this type, or else structs with such fields."""
    noted = [name for name in features if features[name].get("_type") == "Image"]
    structs = [
        field.name
        for field in schema
        if {"bytes", "path"} <= {field.type.field(i).name for i in range(field.type.num_fields)}
    ]
    return [name for name in noted if name in structs] or structs


def _column(path: Path, names: list[str], usual: str, found: list[str]) -> str:
    """Returns the one column of a kind, or of several the one that has the usual name."""
    if usual in found or (not found and usual == "label" and usual in names):
        return usual
    if len(found) != 1:
        raise InputError(
            f"{str(path)!r} has {len(found)} columns of {usual}s ({', '.join(found or names)}); "
            f"one called {usual!r} is needed."
        )
    return found[0]


def _content(path: Path, image: dict[str, Any]) -> bytes:
    if (content := image.get("bytes")) is None and image.get("path"):
        try:
            return (path.parent / image["path"]).read_bytes()
        except OSError:
            return b""
    return content or b""


def _label(value: Any) -> int | str | None:
    if value is None or value == -1:  # as in splits without labels
        return None
    return class_name(value) if isinstance(value, str) else int(value)
