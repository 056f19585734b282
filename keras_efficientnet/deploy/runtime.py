"""Runs a model file of any format on prepared images.

This file imports nothing of the package, and TensorFlow or LiteRT only when a file needs
it. It is also a program: `python runtime.py MODEL IMAGES.npy OUTPUTS.npy` runs a model
over an array in a fresh interpreter, which is how exported files are checked.
"""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BATCH_SIZE = 64


@dataclass(frozen=True)
class Runner:
    """A loaded model.

    Attributes:
        run: from images `[count, height, width, channels]` with values in 0-255 to float32
            scores `[count, classes]`.
        input_shape: of one image; None where a size is free.
    """

    run: Callable[[np.ndarray], np.ndarray]
    input_shape: tuple[int | None, ...]


def open_model(path: str | Path) -> Runner:
    """Loads a model by its format.

    Args:
        path: a .keras file, a SavedModel folder or a .tflite file.

    Raises:
        ValueError: if the file is of none of these formats, or damaged.
    """
    path = Path(path)
    if path.is_dir() and (path / "saved_model.pb").is_file():
        return _saved_model(path)
    if path.suffix == ".tflite":
        return _tflite(path)
    if path.suffix == ".keras":
        return _keras(path)
    raise ValueError("it is neither a .keras file, a SavedModel folder nor a .tflite file")


def _keras(path: Path) -> Runner:
    import keras

    import keras_efficientnet.layers  # noqa: F401  registers the classes a .keras file names

    model = keras.saving.load_model(path, compile=False, safe_mode=True)
    model.compile(jit_compile=False)  # XLA would compile for minutes on a CPU

    def run(images):
        return np.asarray(model.predict(images, batch_size=BATCH_SIZE, verbose=0))

    return Runner(run, tuple(model.input_shape[1:]))


def _saved_model(path: Path) -> Runner:
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    # A signature holds its variables weakly, so `run` keeps the whole.
    signature = loaded.signatures["serving_default"]
    ((input_name, spec),) = signature.structured_input_signature[1].items()
    (output_name,) = signature.structured_outputs

    def run(images):
        signature = loaded.signatures["serving_default"]
        batches = [
            signature(**{input_name: tf.constant(batch, spec.dtype)})[output_name].numpy()
            for batch in _batches(images, BATCH_SIZE)
        ]
        return np.concatenate(batches)

    return Runner(run, tuple(spec.shape[1:]))


def _tflite(path: Path) -> Runner:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=os.cpu_count())
    interpreter.allocate_tensors()
    (source,) = interpreter.get_input_details()
    (target,) = interpreter.get_output_details()

    def run(images):
        outputs = []
        for image in _batches(images, 1):
            interpreter.set_tensor(source["index"], quantize(image, source))
            interpreter.invoke()
            outputs.append(dequantize(interpreter.get_tensor(target["index"]), target))
        return np.concatenate(outputs)

    return Runner(run, tuple(int(size) for size in source["shape"][1:]))


def quantize(values: np.ndarray, tensor: dict) -> np.ndarray:
    """Converts real values to what a LiteRT input takes."""
    scale, zero_point = tensor["quantization"]
    if not scale:
        return values.astype(tensor["dtype"])
    limits = np.iinfo(tensor["dtype"])
    steps = np.rint(values / scale + zero_point)
    return np.clip(steps, limits.min, limits.max).astype(tensor["dtype"])


def dequantize(steps: np.ndarray, tensor: dict) -> np.ndarray:
    """Converts what a LiteRT output gives to real values."""
    scale, zero_point = tensor["quantization"]
    if not scale:
        return steps.astype(np.float32)
    return ((steps.astype(np.float32) - zero_point) * scale).astype(np.float32)


def _batches(images: np.ndarray, size: int):
    for start in range(0, len(images), size):
        yield np.asarray(images[start : start + size])


if __name__ == "__main__":
    model_path, images_path, outputs_path = sys.argv[1:]
    np.save(outputs_path, open_model(model_path).run(np.load(images_path, mmap_mode="r")))
