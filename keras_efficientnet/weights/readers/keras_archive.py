"""The `.keras` archive, read as data: its layers are looked at and never built."""

import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any, BinaryIO

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.readers.hdf5 import Layers, layer_configs, open_hdf5
from keras_efficientnet.weights.weight_file import Tensor

MEMBERS = ("config.json", "model.weights.h5")
# Of a zip archive's local header: its length without name and extra field, and where their lengths
# are.
_HEADER_BYTES, _NAME_LENGTH_AT = 30, 26
# B7's takes a hundredth of it.
MAX_CONFIG_BYTES = 2**26


@contextmanager
def open_keras_archive(path: str) -> Iterator[tuple[str, dict[str, Tensor], Layers]]:
    """Yields what `open_hdf5` does, without building the model.

    Raises:
        InputError: if the model has a Lambda layer.
    """
    with zipfile.ZipFile(path) as archive:
        with archive.open("config.json") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise InputError(f"{path!r} has a config.json of more than 64 MiB, which no model has.")
        config = json.loads(content)
        layers = list(layer_configs(config["config"]))
        if any(layer["class_name"] == "Lambda" for _, layer in layers):
            raise InputError(
                f"{path!r} has a Lambda layer, which is code and is never run here; a .keras or "
                ".weights.h5 file of a model without one is accepted."
            )
        with (
            _open_member(archive, "model.weights.h5") as weights,
            open_hdf5(weights, path, _group_names(config)) as (_, tensors, names),  # pyright: ignore[reportArgumentType]
        ):
            # A model that is not functional has no configs of its layers.
            yield "Keras .keras", tensors, [*names, *layers]


def _open_member(archive: zipfile.ZipFile, name: str) -> IO[bytes]:
    """Opens a member to read at any place.

    Python's reader of members goes through all that lies before a place whenever HDF5 goes
    back. Keras stores weights uncompressed, so that they can be read where they are.
    """
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED or not archive.filename:
        return archive.open(name)
    with archive.open(name):  # which checks the member's header
        pass
    file = open(archive.filename, "rb")  # noqa: SIM115
    file.seek(info.header_offset + _NAME_LENGTH_AT)
    lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]
    return io.BufferedReader(_Part(file, info.header_offset + _HEADER_BYTES + sum(lengths)))


class _Part(io.RawIOBase):
    """A file from some place on, which it closes in the end."""

    def __init__(self, file: BinaryIO, start: int):
        self._file, self._start = file, start
        file.seek(start)

    def seekable(self) -> bool:
        """Always."""
        return True

    def readable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Goes to a place."""
        start = self._start if whence == os.SEEK_SET else 0
        return self._file.seek(offset + start, whence) - self._start

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer."""
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


def _group_names(config: dict) -> dict[str, str]:
    """Layer names by HDF5 group, which Keras calls after the class and numbers in order.

    Keras' first archives have the names nowhere else.
    """
    names, counts = {}, Counter()
    for layer in config["config"].get("layers", ()):
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])
        group = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        number = f"_{counts[group]}" if counts[group] else ""
        names[f"layers/{group}{number}"] = layer["config"].get("name", "")
        counts[group] += 1
    return names
