"""Opens a weight file, whatever it is: by what it contains, not by what it is called."""

import os
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights import hub, schemes
from keras_efficientnet.weights.readers import keras_archive
from keras_efficientnet.weights.readers.hdf5 import open_hdf5
from keras_efficientnet.weights.readers.state_dict import open_npz, open_safetensors
from keras_efficientnet.weights.readers.tensorflow import open_tensorflow
from keras_efficientnet.weights.readers.torch_file import open_torch
from keras_efficientnet.weights.weight_file import Tensor, WeightFile

ACCEPTED = (
    "Keras .h5, .weights.h5 and .keras files, TensorFlow checkpoints and SavedModels, and "
    "PyTorch state dicts as .safetensors, .npz or .pth are accepted"
)
_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
# torch.save before version 1.6: a pickle of this number comes first.
_OLD_TORCH_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


@contextmanager
def open_weight_file(source: str | os.PathLike, prefix: str | None = None) -> Iterator[WeightFile]:
    """Opens a weight file; its tensors can be read inside the `with` block.

    Args:
        source: path of a file, of a SavedModel's folder, of a folder with one TensorFlow
            checkpoint, or of a model of the Hugging Face Hub, a TensorFlow checkpoint's prefix
            such as `model.ckpt`, or `hf://owner/name` for a model of the Hub.
        prefix: of the network to take, where the file holds several.

    Raises:
        InputError: if it cannot be read, or is no weight file of an EfficientNet.
    """
    path = os.fspath(source)
    place = os.fspath(hub.fetch_hub(path)) if hub.is_hub(path) else path
    with ExitStack() as stack:
        stack.enter_context(_readable_errors(path))
        container, tensors, layers = _open(place, stack)
        found = schemes.translate(path, container, tensors, layers, prefix)
        yield hub.with_configuration(found, place) if os.path.isdir(place) else found


@contextmanager
def _readable_errors(path: str) -> Iterator[None]:
    """Turns what the libraries raise on a damaged file into one sentence.

    They raise dozens of types, some of them plain `Exception`; the body of the `with`
    block only reads from the file.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise InputError(f"{path!r} is damaged or not a weight file ({reason}); {ACCEPTED}.") from (
            error
        )


_Content = tuple[str, dict[str, Tensor], list[tuple[str, dict]] | None]
"""What kind of file it is, its tensors, and the layers' configs where it has them."""


def _open(path: str, stack: ExitStack) -> _Content:
    of_hub = (os.path.join(path, name) for name in hub.WEIGHT_FILES)
    path = next(filter(os.path.isfile, of_hub), path)
    prefix = _tensorflow_prefix(path)
    if prefix is not None:
        return "TensorFlow checkpoint", stack.enter_context(open_tensorflow(prefix)), None
    if not os.path.isfile(path):
        raise InputError(f"{path!r} does not exist or holds no weights; {ACCEPTED}.")
    with open(path, "rb") as file:
        start = file.read(16)
    if start.startswith(_HDF5_MAGIC):
        return stack.enter_context(open_hdf5(path, path))
    if start.startswith(b"PK\x03\x04"):
        return _open_zip(path, stack)
    if start.startswith(_OLD_TORCH_MAGIC):
        return "PyTorch .pth", stack.enter_context(open_torch(path)), None
    if start[8:9] == b"{":
        return ".safetensors", stack.enter_context(open_safetensors(path)), None
    if start.startswith(b"\x80"):
        raise InputError(
            f"{path!r} is a bare pickle, which could run any code and is never opened; {ACCEPTED}."
        )
    raise InputError(f"{path!r} is no kind of weight file known here; {ACCEPTED}.")


def _open_zip(path: str, stack: ExitStack) -> _Content:
    with zipfile.ZipFile(path) as archive:
        members = archive.namelist()
    if set(keras_archive.MEMBERS) <= set(members):
        return stack.enter_context(keras_archive.open_keras_archive(path))
    if any(member.endswith("/data.pkl") for member in members):
        return "PyTorch .pth", stack.enter_context(open_torch(path)), None
    if members and all(member.endswith(".npy") for member in members):
        return "NumPy .npz", stack.enter_context(open_npz(path)), None
    raise InputError(
        f"{path!r} is a zip archive but neither a .keras model, a PyTorch file nor an .npz; "
        f"{ACCEPTED}."
    )


def _tensorflow_prefix(path: str) -> str | None:
    """The prefix of the TensorFlow checkpoint that a path means; None if it means none."""
    if os.path.isfile(f"{path}.index"):
        return path
    if path.endswith(".index") and os.path.isfile(path):
        return path.removesuffix(".index")
    if not os.path.isdir(path):
        return None
    if os.path.isfile(os.path.join(path, "saved_model.pb")):
        return os.path.join(path, "variables", "variables")
    found = sorted(str(index.with_suffix("")) for index in Path(path).rglob("*.index"))
    if len(found) > 1:
        raise InputError(
            f"{path!r} holds {len(found)} TensorFlow checkpoints; pass the prefix of one, such as "
            f"{found[0]!r}."
        )
    return found[0] if found else None


__all__ = ["ACCEPTED", "Tensor", "WeightFile", "open_weight_file"]
