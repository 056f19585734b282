"""Named arrays in a flat file: `.safetensors`, `.npz` and torch's `.pth`."""

import contextlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.weight_file import Tensor

# In older ones, a file can run code in spite of `weights_only` (CVE-2025-32434, CVE-2026-24747).
OLDEST_TORCH = (2, 10)
# Where training scripts keep the weights beside an optimizer's state; averaged ones first.
_NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")


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


@contextmanager
def open_pth(path: str) -> Iterator[dict[str, Tensor]]:
    """Opens what `torch.save` wrote, through torch's reader that runs no pickled code."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            f"{path!r} is a PyTorch file and PyTorch is not installed; install torch, or convert "
            "the file to .safetensors, which needs no PyTorch."
        ) from None
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        raise InputError(
            f"{path!r} is a PyTorch file, and a file can run code in PyTorch {torch.__version__}; "
            "install torch 2.10 or newer, or convert the file to .safetensors."
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises its own, pickle's and zip's errors here
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            f"{path!r} is not a PyTorch file of plain tensors ({reason}); a state dict saved by "
            "torch.save, or .safetensors, is accepted."
        ) from error
    for key in _NESTED:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
            break
    if not isinstance(content, dict):
        raise InputError(f"{path!r} holds a {type(content).__name__}, not a state dict of tensors.")
    yield {
        str(name): Tensor(str(name), tuple(value.shape), partial(_to_numpy, value))
        for name, value in content.items()
        if isinstance(value, torch.Tensor)
    }


def _get_tensor(file: Any, name: str) -> np.ndarray:
    value = file.get_tensor(name)
    # NumPy has no bfloat16 of its own, and does not count it among the floating types.
    return value.astype("float32") if value.dtype.name == "bfloat16" else value


def _to_numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


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
