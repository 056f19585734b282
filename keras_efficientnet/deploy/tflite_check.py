"""Tries a .tflite file of unknown origin where it can do no harm, before it is opened here.

LiteRT is C++ that may end its process on a damaged file, which Python cannot prevent. So a file is
checked against LiteRT's schema and run once in a child process, and what has passed is remembered
by its digest: the next time, and after an export, which ran the file in a fresh interpreter too,
only the digest is computed.
"""

import contextlib
import hashlib
import importlib.metadata
import math
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from keras_efficientnet.deploy import runtime
from keras_efficientnet.files import keras_home

# L2 takes half a minute for an image on one core.
SECONDS = 600
_IDENTIFIER = slice(4, 8)
# Bits of an element, by the schema's names; tensors of other types have no fixed size.
_BITS = {
    **dict.fromkeys(("INT8", "UINT8", "BOOL"), 8),
    **dict.fromkeys(("INT16", "UINT16", "FLOAT16", "BFLOAT16"), 16),
    **dict.fromkeys(("INT32", "UINT32", "FLOAT32"), 32),
    **dict.fromkeys(("INT64", "UINT64", "FLOAT64", "COMPLEX64"), 64),
    "INT4": 4,
    "COMPLEX128": 128,
}


def try_in_child(path: Path) -> None:
    """Runs a .tflite file once in a child process, unless it has passed that before.

    Args:
        path: of the file.

    Raises:
        ValueError: if it does not run there; the message says why.
    """
    if _mark(path).exists():
        return
    if getattr(sys, "frozen", False) or not sys.executable:
        raise ValueError("no Python interpreter is here to try it in; pass trust=True to open it")
    try:
        child = subprocess.run(
            [sys.executable, "-P", runtime.__file__, path],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(f"it takes more than {SECONDS} s for one image") from None
    if child.returncode == 1:  # Python's own, after a sentence
        raise ValueError(child.stderr.strip().rpartition("\n")[2].rstrip("."))
    if child.returncode:
        raise ValueError(f"LiteRT ends the process that runs it ({_end(child.returncode)})")
    remember(path)


def remember(path: Path) -> None:
    """Notes that a file has run in a process of its own, where the user's folder can be written."""
    mark = _mark(path)
    with contextlib.suppress(OSError):
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()


def _mark(path: Path) -> Path:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    version = importlib.metadata.version("ai-edge-litert")
    return Path(keras_home(), "keras-efficientnet", f"ran-in-litert-{version}", digest)


def _end(code: int) -> str:
    names = {-each.value: each.name for each in signal.Signals}
    return names.get(code, f"exit code {code}")


def check_tflite(content: bytes) -> None:
    """Checks a file against LiteRT's schema: its tables, every index in them, and constants' sizes.

    Args:
        content: of a .tflite file.

    Raises:
        ValueError: if something does not fit.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    if content[_IDENTIFIER] != b"TFL3":
        raise ValueError("it is no LiteRT file")
    try:
        model: Any = flatbuffer_utils.read_model_from_bytearray(bytearray(content))
    except Exception as error:  # an offset that leads out of the file can raise anything
        raise ValueError("its tables are damaged") from error
    bits = {code: _BITS.get(name) for name, code in vars(schema.TensorType).items()}
    for graph in model.subgraphs or ():
        _check_tensors(graph, model, bits)
        _check_operators(graph, model)


def _check_tensors(graph: Any, model: Any, bits: dict[Any, int | None]) -> None:
    for tensor in graph.tensors:
        shape = [] if tensor.shape is None else np.asarray(tensor.shape).tolist()
        if not 0 <= tensor.buffer < len(model.buffers) or min(shape, default=0) < 0:
            raise ValueError(f"its tensor {_name(tensor)} has a wrong shape or buffer")
        data = model.buffers[tensor.buffer].data
        size = bits.get(tensor.type)
        if data is None or not len(data) or tensor.sparsity or size is None:
            continue
        if len(data) != math.ceil(math.prod(shape) * size / 8):
            raise ValueError(f"its constant {_name(tensor)} has {len(data):,} bytes, not its size")


def _check_operators(graph: Any, model: Any) -> None:
    tensors, written = range(len(graph.tensors)), set(np.ravel(graph.inputs).tolist())
    ends = [*np.ravel(graph.inputs), *np.ravel(graph.outputs)]
    if any(index not in tensors for index in ends):
        raise ValueError("its input or output is no tensor of it")
    for operator in graph.operators or ():
        inputs = [] if operator.inputs is None else np.asarray(operator.inputs).tolist()
        outputs = [] if operator.outputs is None else np.asarray(operator.outputs).tolist()
        known = operator.opcodeIndex in range(len(model.operatorCodes))
        # An input that an operator goes without is -1.
        if not known or any(index not in tensors for index in (*filter(_given, inputs), *outputs)):
            raise ValueError("an operator of it refers to what it does not have")
        data = (model.buffers[graph.tensors[index].buffer].data for index in outputs)
        if written & set(outputs) or any(each is not None and len(each) for each in data):
            raise ValueError("an operator of it writes to a tensor that has its values already")
        written |= set(outputs)


def _given(index: int) -> bool:
    return index != -1


def _name(tensor: Any) -> str:
    return repr((tensor.name or b"").decode(errors="replace"))
