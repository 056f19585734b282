"""Converts a model file to another format and checks the result."""

import os
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_efficientnet.layers  # noqa: F401  registers the classes a .keras file names
from keras_efficientnet.data import images, pipeline
from keras_efficientnet.data.sources import DataSet
from keras_efficientnet.deploy.export import (
    CALIBRATION_IMAGES,
    Quantization,
    export_saved_model,
    export_tflite,
)
from keras_efficientnet.deploy.metadata import ModelInfo, read_info
from keras_efficientnet.deploy.verify import verify
from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.files import size_in_bytes, written_whole

CHECK_IMAGES = 1000
RANDOM_IMAGES = 16


def convert(
    source: str | os.PathLike,
    file_format: str = "tflite",
    quantize: Quantization = "float32",
    data: DataSet | None = None,
    *,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Converts a .keras file or a SavedModel folder.

    Args:
        source: the model.
        file_format: `"tflite"`, or `"savedmodel"` from a .keras file.
        quantize: see `export_tflite`.
        data: its training images calibrate int8, its held-out ones compare the results;
            without it, random pixels do.
        output: folder to write `saved_model` or `model_QUANTIZE.tflite` into; the
            source's if None.
        overwrite: replace an existing file.

    Returns:
        What `verify` reports over `source` and `exported`, the `files`' sizes in bytes,
        and the `output` path.

    Raises:
        InputError: if the source is of another kind, or int8 has no data.
    """
    source = Path(source)
    model, info = _open(source, file_format)
    if quantize == "int8" and file_format == "tflite" and data is None:
        raise InputError("int8 needs calibration images; pass --calibration with training data.")
    name = "saved_model" if file_format == "savedmodel" else f"model_{quantize}.tflite"
    output = Path(output or source.parent) / name
    with written_whole(output, overwrite) as path:
        if file_format == "savedmodel":
            export_saved_model(model, path, info)
        else:
            calibration = data and _prepared(data.train, info, CALIBRATION_IMAGES)[0]
            export_tflite(model, path, info, quantize, calibration)
        if data:
            pixels, labels = _prepared(data.test, info, CHECK_IMAGES)
        else:
            shape = (RANDOM_IMAGES, info.image_size, info.image_size, 3)
            pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
            labels = None
        report = verify({"source": source, "exported": path}, "source", pixels, labels)
        report["files"] = {item.name: size_in_bytes(item) for item in (source, path)}
    return {**report, "output": str(output)}


def _open(source: Path, file_format: str) -> tuple[Any, ModelInfo]:
    """Returns what `export_tflite` takes, and the description."""
    if not source.exists():
        raise InputError(f"Model {str(source)!r} does not exist.")
    if source.is_dir() and (source / "saved_model.pb").is_file():
        if file_format == "savedmodel":
            raise InputError(f"{str(source)!r} is a SavedModel already.")
        import tensorflow as tf

        model = str(source)
        signature = tf.saved_model.load(model).signatures["serving_default"]
        ((_, spec),) = signature.structured_input_signature[1].items()
        shape = tuple(spec.shape[1:])
    elif source.suffix == ".keras":
        try:
            model = keras.saving.load_model(source, compile=False, safe_mode=True)
        except Exception as error:  # damaged archives fail in many ways
            raise InputError(f"Cannot load model {str(source)!r}: {reason(error)}.") from error
        shape = tuple(model.input_shape[1:])
    else:
        raise InputError(
            f"{str(source)!r} cannot be converted; a .keras file or a SavedModel folder can."
        )
    info = read_info(source) or ModelInfo("unknown", (), shape[0] or 0, images.PHOTO_CROP_FRACTION)
    return model, info


def _prepared(examples, info: ModelInfo, limit: int):
    return pipeline.evaluation_arrays(examples, info.image_size, info.crop_fraction, limit)
