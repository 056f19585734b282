"""PyTorch's `.pth` files, read without PyTorch and without running anything in them.

Both formats are read: a zip archive (since PyTorch 1.6), and a row of pickles followed by the
tensors' bytes (before). A file may only speak of what is listed here as plain data.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, BinaryIO

import numpy as np

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.readers.pickle_data import Name, Object, PickleError, Unpickler
from keras_efficientnet.weights.weight_file import Tensor

# Fewer tensors are no network's: in one dictionary, an optimizer has some for each parameter.
_FEW_TENSORS = 20
# Training scripts nest their dictionaries three or four deep.
_MAX_DEPTH = 16

# NumPy's types by what PyTorch calls storages and dtypes; NumPy has no bfloat16.
_DTYPES = {
    **dict.fromkeys(("DoubleStorage", "float64", "double"), "<f8"),
    **dict.fromkeys(("FloatStorage", "float32", "float"), "<f4"),
    **dict.fromkeys(("HalfStorage", "float16", "half"), "<f2"),
    **dict.fromkeys(("BFloat16Storage", "bfloat16"), "bfloat16"),
    **dict.fromkeys(("LongStorage", "int64", "long"), "<i8"),
    **dict.fromkeys(("IntStorage", "int32", "int"), "<i4"),
    **dict.fromkeys(("ShortStorage", "int16", "short"), "<i2"),
    **dict.fromkeys(("CharStorage", "int8"), "<i1"),
    **dict.fromkeys(("ByteStorage", "uint8"), "<u1"),
    **dict.fromkeys(("BoolStorage", "bool"), "?"),
}
_NUMPY = ("dtype", "ndarray", "bool", "bool_", "int32", "int64", "uint8", "float32", "float64")
_PATHS = ("Path", "PurePath", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
_BUILTINS = ("set", "frozenset", "bytearray", "complex", "list", "dict", "tuple", "int", "float")
# Classes and constants that are data; their instances tell what they were made of.
_DATA = {
    *(f"torch.{name}" for name in _DTYPES),
    *("torch.Size", "torch.device", "torch.strided", "torch.storage.UntypedStorage"),
    *("collections.Counter", "argparse.Namespace", "torch.serialization._get_layout"),
    *(f"numpy.{name}" for name in _NUMPY),
    *(f"{module}.{name}" for module in ("pathlib", "pathlib._local") for name in _PATHS),
    *(f"{module}.{name}" for module in ("builtins", "__builtin__") for name in _BUILTINS),
}


@dataclass(frozen=True)
class _Storage:
    """A run of numbers in the file: by which key, of which of `_DTYPES`, and how many."""

    key: str
    dtype: str
    count: int


@dataclass(frozen=True)
class _View:
    """A tensor: a view of a storage, with strides counted in numbers."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


_Read = Callable[[_Storage, int, int], bytes]
"""Reads so many bytes of a storage, from a byte on."""


@contextmanager
def open_torch(path: str) -> Iterator[dict[str, Tensor]]:
    """Opens a file, and yields every tensor in it that has a name.

    A tensor's name joins the keys under which it is found by dots, such as
    `"state_dict.conv_stem.weight"`; its `group` is the part that leads to its state dict.

    Raises:
        InputError: if the file speaks of a class that is not known as plain data.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield _read_zip(archive, path)
    else:
        with open(path, "rb") as file:
            yield _read_legacy(file, path)


def _read_zip(archive: zipfile.ZipFile, path: str) -> dict[str, Tensor]:
    members = archive.namelist()
    (pickle,) = (name for name in members if name.endswith("/data.pkl"))
    root = pickle.removesuffix("data.pkl")
    if f"{root}byteorder" in members:
        with archive.open(f"{root}byteorder") as file:
            if file.read(6) != b"little":
                raise InputError(f"{path!r} was saved on a big-endian machine, which is not read.")

    def read(storage: _Storage, start: int, count: int) -> bytes:
        with archive.open(f"{root}data/{storage.key}") as member:
            member.seek(start)
            return member.read(count)

    with archive.open(pickle) as file:
        unpickler = Unpickler(file, _DATA, _CALLS, _storage)
        content = unpickler.run()
    return _tensors(content, unpickler.unknown, path, read)


def _read_legacy(file: BinaryIO, path: str) -> dict[str, Tensor]:
    for _ in range(3):  # a magic number, the format's version, the machine's sizes
        Unpickler(file).run()
    storages: dict[str, _Storage] = {}

    def collect(identifier: Any) -> Any:
        found = _storage(identifier)
        return storages.setdefault(found.key, found) if isinstance(found, _Storage) else found

    unpickler = Unpickler(file, _DATA, _CALLS, collect)
    content = unpickler.run()
    keys = Unpickler(file).run()
    starts: dict[str, int] = {}
    position = file.tell()
    for key in keys if isinstance(keys, list) else ():
        storage = storages[str(key)]
        file.seek(position)
        if int.from_bytes(file.read(8), "little") != storage.count:
            raise PickleError(f"storage {key} has another length than it says")
        starts[storage.key] = position + 8
        position += 8 + storage.count * _item_size(storage.dtype)

    def read(storage: _Storage, start: int, count: int) -> bytes:
        file.seek(starts[storage.key] + start)
        return file.read(count)

    return _tensors(content, unpickler.unknown, path, read)


def _tensors(content: Any, unknown: str | None, path: str, read: _Read) -> dict[str, Tensor]:
    """Finds every named tensor, wherever it is."""
    if unknown:
        raise InputError(
            f"{path!r} holds the class {unknown!r}, which is code and is not run here; if you "
            "trust the file, save its tensors alone where that class is installed: python -c "
            f'"import torch; x = torch.load({path!r}, weights_only=False); '
            f"torch.save({_resaved(content)}, 'weights.pth')\"."
        )
    found: dict[str, Tensor] = {}
    for group, members in _dictionaries(content):
        for key, value in members.items():
            if (tensor := _tensor(value)) is not None:
                name = f"{group}{key}".encode(errors="replace").decode()
                found[name] = Tensor(name, tensor.shape, partial(_values, tensor, read), group)
    if not found:
        kind = content.name if isinstance(content, Object) else type(content).__name__.strip("_")
        raise InputError(
            f"{path!r} holds a {kind.lower()} without named tensors; a state dict of tensors is "
            "accepted."
        )
    return found


def _dictionaries(content: Any) -> Iterator[tuple[str, dict]]:
    """Yields every dictionary in what a file holds, each once, with the keys that lead to it."""
    seen: set[int] = set()
    pending = [("", content, 0)]
    while pending:
        group, value, depth = pending.pop()
        if isinstance(value, Object):
            value = value.state  # of a Namespace, say
        if isinstance(value, dict) and id(value) not in seen and depth <= _MAX_DEPTH:
            seen.add(id(value))
            yield group, value
            inner = [(f"{group}{key}.", member, depth + 1) for key, member in value.items()]
            pending.extend(reversed(inner))


def _resaved(content: Any) -> str:
    """Returns the Python expression for the tensors of `x`, the whole content."""

    def tensors(found: tuple[str, dict]) -> int:
        return sum(isinstance(_tensor(value), _View) for value in found[1].values())

    best = max(_dictionaries(content), key=tensors, default=("", {}))
    if tensors(best) >= _FEW_TENSORS:
        return "".join(["x", *(f"[{key!r}]" for key in best[0].split(".")[:-1])])
    members = content.items() if isinstance(content, dict) else ()
    keys = [key for key, value in members if "_modules" in (getattr(value, "state", None) or ())]
    return f"x[{keys[0]!r}].state_dict()" if keys else "x.state_dict()"


def _tensor(value: Any) -> _View | np.ndarray | None:
    """Returns the tensor or array that a value is; None if it is none."""
    if isinstance(value, Object) and value.name == "parameter":
        value = value.arguments
    match value:
        case _View():
            return value
        case Object("numpy.ndarray", _, (_, tuple(shape), Object() as dtype, fortran, bytes(data))):
            big = isinstance(dtype.state, tuple) and dtype.state[1:2] == (">",)
            order = ">" if big else "<"
            flat = np.frombuffer(data, np.dtype(dtype.arguments[0]).newbyteorder(order))
            return flat.reshape(shape, order="F" if fortran else "C")
    return None


def _item_size(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _values(tensor: _View | np.ndarray, read: _Read) -> np.ndarray:
    """Reads a tensor; half precision becomes float32, which takes every value of it."""
    if isinstance(tensor, np.ndarray):
        return tensor.copy()
    storage, size, count = tensor.storage, _item_size(tensor.storage.dtype), 0
    if all(tensor.shape):
        last = zip(tensor.shape, tensor.strides, strict=True)
        count = 1 + sum((length - 1) * step for length, step in last)
    if tensor.offset + count > storage.count:
        raise PickleError(f"a tensor {tensor.shape} that does not fit its storage {storage.key}")
    content = read(storage, tensor.offset * size, count * size)
    half = storage.dtype == "bfloat16"
    numbers = np.frombuffer(content, "<u2" if half else storage.dtype, count)
    steps = tuple(step * size for step in tensor.strides)
    values = np.lib.stride_tricks.as_strided(numbers, tensor.shape, steps)
    if half:
        return (values.astype("<u4") << 16).view("<f4")
    return values.astype("<f4" if storage.dtype == "<f2" else storage.dtype)


def _storage(identifier: Any) -> Any:
    """`("storage", class, key, device, count)`, and in old files what part of another it is.

    Old files also have `("module", class, ...)`, with the class's source.
    """
    if identifier[0] == "module":
        return identifier[1]
    kind, dtype, key, _, count, *part = identifier
    if kind != "storage" or any(part) or not isinstance(count, int) or count < 0:
        raise PickleError("a storage that PyTorch does not write")
    # An untyped one counts bytes.
    return _Storage(str(key), _DTYPES.get(dtype.name.rpartition(".")[2], "<u1"), count)


def _view(storage: Any, offset: Any, shape: Any, strides: Any, *_) -> _View:
    """`torch._utils._rebuild_tensor_v2`, and the older one with fewer arguments."""
    shape, strides = (x.arguments[0] if isinstance(x, Object) else x for x in (shape, strides))
    if not isinstance(storage, _Storage) or len(shape) != len(strides):
        raise PickleError("a tensor without a storage, or with other strides than sides")
    if not all(isinstance(number, int) and number >= 0 for number in (offset, *shape, *strides)):
        raise PickleError("a tensor of negative size")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _typed_view(storage: Any, offset: Any, shape: Any, strides: Any, *options: Any) -> _View:
    """`torch._utils._rebuild_tensor_v3`, whose storage has only bytes."""
    _, _, dtype, *_ = options  # after requires_grad and hooks
    number = _DTYPES[dtype.name.rpartition(".")[2]]
    typed = replace(storage, dtype=number, count=storage.count // _item_size(number))
    return _view(typed, offset, shape, strides)


def _subclass(function: Any, _: Any, arguments: Any, *__) -> Any:
    """`torch._tensor._rebuild_from_type_v2`: what an instance of Tensor's subclass is made of."""
    call = _CALLS.get(function.name) if isinstance(function, Name) else None
    return call(*arguments) if call else None


def _ordered_dict(pairs: Any = (), *_) -> dict:
    """Python 2 gives it its content at once; nobody else needs the list."""
    found = {}
    while isinstance(pairs, list) and pairs:
        key, value = pairs.pop()
        if isinstance(key, str | int):
            found[key] = value
    return dict(reversed(found.items()))


_CALLS: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": _view,
    "torch._utils._rebuild_tensor_v2": _view,
    "torch._utils._rebuild_tensor_v3": _typed_view,
    "torch._utils._rebuild_parameter": lambda tensor, *_: Object("parameter", tensor),
    "torch._utils._rebuild_parameter_with_state": lambda tensor, *_: Object("parameter", tensor),
    "torch._tensor._rebuild_from_type_v2": _subclass,
    "collections.OrderedDict": _ordered_dict,
    "collections.defaultdict": lambda *_: {},
    "numpy.core.multiarray._reconstruct": lambda *_: Object("numpy.ndarray", ()),
    "numpy.core.multiarray.scalar": lambda *arguments: Object("number", arguments),
    "_codecs.encode": lambda text, *_: text.encode("latin-1"),
}
