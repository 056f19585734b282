"""Writes a model as .keras, SavedModel or LiteRT (TFLite)."""

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_efficientnet.deploy.metadata import ModelInfo, write_info
from keras_efficientnet.errors import InputError
from keras_efficientnet.quiet import silenced

Quantization = Literal["float32", "float16", "dynamic", "int8"]
# Training images that int8 takes its ranges from.
CALIBRATION_IMAGES = 200
QUANTIZATIONS: tuple[Quantization, ...] = ("float32", "float16", "dynamic", "int8")


def save_keras(model: keras.Model, path: str | os.PathLike, info: ModelInfo) -> None:
    """Saves a model with its description as a .keras file."""
    model.save(path)
    write_info(Path(path), info)


def export_saved_model(model: keras.Model, path: str | os.PathLike, info: ModelInfo) -> None:
    """Exports a model as a TensorFlow SavedModel that needs no class of this package.

    Its `serving_default`, which a loaded model also has as `serve`, takes float32
    `images` `[batch, height, width, channels]` with a free batch and pixels in 0-255, and
    gives float32 `scores` `[batch, classes]`.
    """
    import tensorflow as tf

    images = tf.TensorSpec((None, *_static_shape(model)), tf.float32, name="images")
    # Keras' own export writes every variable twice.
    module: Any = tf.Module()
    module.variables_ = [variable.value for variable in model.variables]
    module.serve = tf.function(
        lambda images: {"scores": model(images, training=False)}, input_signature=[images]
    )
    tf.saved_model.save(module, str(path), signatures=module.serve)
    write_info(Path(path), info)


def export_tflite(
    model: Any,
    path: str | os.PathLike,
    info: ModelInfo,
    quantize: Quantization = "float32",
    calibration: np.ndarray | None = None,
) -> None:
    """Converts a model to a LiteRT file with a batch of 1 and built-in operators only.

    Args:
        model: a Keras model, or the path of a SavedModel folder.
        path: of the .tflite file to write.
        info: its description.
        quantize: `"float32"`; `"float16"` weights; `"dynamic"`, 8-bit weights that are
            computed with in 8 bits where the runtime can; or `"int8"`, everything in 8
            bits with uint8 images in and uint8 scores out.
        calibration: for int8, prepared training images `[count, height, width,
            channels]` in 0-255; some hundred give the ranges of the activations.

    Raises:
        InputError: if int8 is asked for without calibration images, or images of another
            size.
    """
    import tensorflow as tf

    if quantize not in QUANTIZATIONS:
        raise InputError(f"quantize={quantize!r} must be one of {', '.join(QUANTIZATIONS)}.")
    # The function holds its variables weakly: `owner` keeps them alive.
    function, shape, owner = _single_image_function(model)
    with silenced(), warnings.catch_warnings():
        # It asks for input statistics, which uint8 images do not need.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)
        # Given the model as well, the converter would leave its variables outside the file.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        if quantize != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: _calibrate(calibration, shape)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.uint8
            converter.inference_output_type = tf.uint8
            _check_calibration(calibration, shape)
        content = converter.convert()
    del owner
    Path(path).write_bytes(content)
    write_info(Path(path), info)


def _single_image_function(model: Any):
    """Traces a model for one image; returns the function, the image's shape and its owner."""
    import tensorflow as tf

    if isinstance(model, str | os.PathLike):
        owner = tf.saved_model.load(model)
        signature = owner.signatures["serving_default"]
        ((name, spec),) = signature.structured_input_signature[1].items()
        (output,) = signature.structured_outputs
        shape = tuple(spec.shape[1:])
        function = tf.function(lambda images: signature(**{name: images})[output])
    else:
        owner = model
        shape = _static_shape(model)
        function = tf.function(lambda images: model(images, training=False))
    images = tf.TensorSpec((1, *shape), tf.float32, name="image")
    return function.get_concrete_function(images), shape, owner


def _static_shape(model: keras.Model) -> tuple[int, ...]:
    shape = tuple(model.input_shape[1:])
    if None in shape:
        raise InputError(
            f"Model {model.name!r} has input shape {shape}; build it with a fixed height and width "
            "to export it."
        )
    return shape


def _check_calibration(calibration: np.ndarray | None, shape: tuple[int, ...]) -> None:
    if calibration is None or not len(calibration):
        raise InputError("int8 needs calibration images; name training data to take them from.")
    if calibration.shape[1:] != shape:
        raise InputError(
            f"Calibration images of shape {calibration.shape[1:]} do not fit a model that takes "
            f"{shape}."
        )


def _calibrate(calibration, shape) -> Iterator[list[np.ndarray]]:
    for image in calibration:
        yield [image.astype(np.float32)[None]]
