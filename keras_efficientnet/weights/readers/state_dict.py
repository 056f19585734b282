"""Named arrays in a flat file: `.safetensors` and `.npz`."""

import contextlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from keras_efficientnet.weights.weight_file import Tensor


@contextmanager
def open_safetensors(path: str) -> Iterator[dict[str, Tensor]]:
    """Opens a `.safetensors` file."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        names = file.keys()
        yield {
            name: Tensor(
                name, tuple(file.get_slice(name).get_shape()), partial(_get_tensor, file, name)
            )
            for name in names
        }


@contextmanager
def open_npz(path: str) -> Iterator[dict[str, Tensor]]:
    """Opens a NumPy archive, without pickles."""
    with np.load(path, allow_pickle=False) as arrays, zipfile.ZipFile(path) as archive:
        yield {
            name: Tensor(name, _npy_shape(archive, f"{name}.npy"), partial(arrays.get, name))
            for name in arrays.files
        }


def _get_tensor(file: Any, name: str) -> np.ndarray:
    value = file.get_tensor(name)
    # NumPy has no bfloat16 of its own, and does not count it among the floating types.
    return value.astype("float32") if value.dtype.name == "bfloat16" else value


def _npy_shape(archive: zipfile.ZipFile, member: str) -> tuple[int, ...]:
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        with contextlib.suppress(KeyError):
            return read[version](file)[0]
    raise ValueError(f"array {member!r} has npy format version {version}")
