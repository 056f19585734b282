"""Runs a model file of any format on prepared images.

This file imports others of the package, TensorFlow, LiteRT or ONNX Runtime only when a model
needs them. As a program, `python runtime.py MODEL IMAGES.npy OUTPUTS.npy` runs a model on
an array in a fresh interpreter, which is how exported files are verified, and
`python runtime.py MODEL.tflite` checks and runs a file that nobody knows, on black pixels.
"""

import math
import os
import queue
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

BATCH_SIZE = 64
# L2's largest activation for an image of 800 px takes a quarter of it.
MAX_TENSOR_BYTES = 2**31


@dataclass(frozen=True)
class Runner:
    """A loaded model; safe to use from several threads.

    Attributes:
        run: from images `[count, height, width, channels]` with values in 0-255 to float32
            scores `[count, classes]`.
        input_shape: of one image; None where a size is free.
        output_shape: of the output for one image; None where a size is free.
        keras_model: that was loaded; None of other formats.
    """

    run: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int | None, ...]
    output_shape: tuple[int | None, ...]
    keras_model: Any = None


def open_model(path: str | Path, threads: int | None = None) -> Runner:
    """Loads a model by its format.

    Args:
        path: a .keras file, a whole model in .h5, a SavedModel folder, a .tflite or an .onnx file.
        threads: number of threads for a .tflite or an .onnx file; the number of available
            cores if None. TensorFlow has one setting for the whole process
            (`tf.config.threading`), which is not changed.

    Raises:
        ValueError: if the file has none of these formats, or is damaged.
    """
    path = Path(path)
    threads = threads or available_cores()
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _saved_model(path)
    if path.suffix == ".tflite":
        return _LiteModel(path, threads).runner()
    if path.suffix in (".keras", ".h5", ".hdf5"):
        return _keras(path)
    if path.suffix == ".onnx":
        return _onnx(path, threads)
    raise ValueError(
        "it is neither a .keras nor .h5 file, a SavedModel folder, a .tflite file nor an .onnx file"
    )


def available_cores() -> int:
    """Returns the number of cores that this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _keras(path: Path) -> Runner:
    from keras_efficientnet.deploy.keras_file import load_keras

    model: Any = load_keras(path)
    model.compile(jit_compile=False)  # XLA would compile for minutes on a CPU
    # Not every backend is thread-safe; one call uses all cores.
    lock = threading.Lock()

    def run(images):
        with lock:  # `predict` has an overhead of several times the network's time for one image
            return np.concatenate(
                [np.asarray(model.predict_on_batch(batch)) for batch in _batches(images)]
            )

    return Runner(run, tuple(model.input_shape[1:]), tuple(model.output_shape[1:]), model)


def _saved_model(path: Path) -> Runner:
    import tensorflow as tf

    from keras_efficientnet.deploy.saved_model_check import check_saved_model

    check_saved_model(path)
    loaded = tf.saved_model.load(path)
    # A signature has only weak references to its variables, so `run` refers to all of it.
    signature = loaded.signatures["serving_default"]
    input_name, spec = _only("input", list(signature.structured_input_signature[1].items()))
    output_name, output = _only("output", list(signature.structured_outputs.items()))

    def run(images):
        signature = loaded.signatures["serving_default"]
        batches = [
            signature(**{input_name: tf.constant(batch, spec.dtype)})[output_name].numpy()
            for batch in _batches(images)
        ]
        return np.concatenate(batches)

    return Runner(run, tuple(spec.shape[1:]), tuple(output.shape[1:]))


def _onnx(path: Path, threads: int) -> Runner:
    try:
        import onnxruntime  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("an .onnx file needs the package onnxruntime") from None

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    source = _only("input", session.get_inputs())
    target = _only("output", session.get_outputs())
    count, *shape = (size if isinstance(size, int) else None for size in source.shape)
    dtype = {"tensor(float)": np.float32, "tensor(uint8)": np.uint8}[source.type]

    def run(images):
        batches = _batches(images, count or BATCH_SIZE)
        outputs = [session.run(None, {source.name: batch.astype(dtype)})[0] for batch in batches]
        return np.concatenate(outputs)

    sizes = (size if isinstance(size, int) else None for size in target.shape[1:])
    return Runner(run, tuple(shape), tuple(sizes))


class _LiteModel:
    """Interpreters of one LiteRT model; each is used by one thread at a time.

    A single image is run by the one interpreter with all the threads. Several images, and a
    single one while that interpreter is busy, are run by a pool of interpreters with one thread
    each: one image per core needs less synchronization than one image on all cores, and on a
    CPU larger batches are not faster. The pool's interpreters are made when first needed.
    """

    def __init__(self, path: Path, threads: int):
        self._content = path.read_bytes()  # shared by all interpreters
        self._threads = threads
        self._wide = self._interpreter(threads)
        self._wide_is_free = threading.Lock()
        self._narrow: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(threads):
            self._narrow.put(None)  # no interpreter yet

    def runner(self) -> Runner:
        source, target = self._tensors(self._wide)
        count, *shape = source["shape"].tolist()
        if count != 1:
            raise ValueError(f"it takes {count} images at a time; export it with a batch of 1")
        return Runner(self._run, tuple(shape), tuple(target["shape"].tolist()[1:]))

    def _run(self, images: np.ndarray) -> np.ndarray:
        if len(images) == 1:
            if self._wide_is_free.acquire(blocking=False):
                try:
                    return self._invoke(self._wide, images)
                finally:
                    self._wide_is_free.release()
            return self._run_narrow(images)
        with ThreadPoolExecutor(self._threads) as pool:
            return np.concatenate(list(pool.map(self._run_narrow, _batches(images, 1))))

    def _run_narrow(self, image: np.ndarray) -> np.ndarray:
        interpreter = self._narrow.get()
        try:
            interpreter = interpreter or self._interpreter(1)
            return self._invoke(interpreter, image)
        finally:
            self._narrow.put(interpreter)

    def _interpreter(self, threads: int) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self._content, num_threads=threads)
        for tensor in interpreter.get_tensor_details():
            size = math.prod(map(int, tensor["shape"])) * np.dtype(tensor["dtype"]).itemsize
            if not 0 <= size <= MAX_TENSOR_BYTES:
                raise ValueError(f"its tensor {tensor['name']!r} would take {size:,} bytes")
        interpreter.allocate_tensors()
        return interpreter

    def _invoke(self, interpreter: Any, image: np.ndarray) -> np.ndarray:
        source, target = self._tensors(interpreter)
        interpreter.set_tensor(source["index"], quantize(image, source))
        interpreter.invoke()
        return dequantize(interpreter.get_tensor(target["index"]), target)

    def _tensors(self, interpreter: Any) -> tuple[dict, dict]:
        return (
            _only("input", interpreter.get_input_details()),
            _only("output", interpreter.get_output_details()),
        )


def quantize(values: np.ndarray, tensor: dict) -> np.ndarray:
    """Converts real values to the number format of a LiteRT input."""
    scale, zero_point = tensor["quantization"]
    if not scale:
        return values.astype(tensor["dtype"])
    if (scale, zero_point) == (1, 0) and values.dtype == tensor["dtype"]:
        return values  # uint8 pixels, as they are
    limits = np.iinfo(tensor["dtype"])
    steps = np.rint(values / scale + zero_point)
    return np.clip(steps, limits.min, limits.max).astype(tensor["dtype"])


def dequantize(steps: np.ndarray, tensor: dict) -> np.ndarray:
    """Converts a LiteRT output to real values."""
    scale, zero_point = tensor["quantization"]
    if not scale:
        return steps.astype(np.float32)
    return ((steps.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _only(kind: str, items: Sequence) -> Any:
    if len(items) != 1:
        raise ValueError(f"it has {len(items)} {kind}s, and an image classifier has one")
    return items[0]


def _batches(images: np.ndarray, size: int = BATCH_SIZE):
    for start in range(0, len(images), size):
        yield np.asarray(images[start : start + size])


def _try(path: str) -> None:
    """Checks a .tflite file and runs it once; ends the process with a sentence if it cannot."""
    from keras_efficientnet.deploy.tflite_check import check_tflite
    from keras_efficientnet.errors import reason

    try:
        check_tflite(Path(path).read_bytes())
        runner = open_model(path, threads=1)
        runner.run(np.zeros((1, *(size or 1 for size in runner.input_shape)), np.float32))
    except Exception as error:  # each is a reason not to open it
        sys.exit(reason(error))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        _try(sys.argv[1])
    else:
        model_path, images_path, outputs_path = sys.argv[1:]
        np.save(outputs_path, open_model(model_path).run(np.load(images_path, mmap_mode="r")))
