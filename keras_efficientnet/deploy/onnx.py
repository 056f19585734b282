"""Writes an .onnx file through Keras' own exporter."""

import importlib.util
import os
import warnings
from typing import Any

import keras

from keras_efficientnet.deploy.exportable import DescriptionLike, Model, open_exportable
from keras_efficientnet.description import FILE_NAME
from keras_efficientnet.errors import InputError
from keras_efficientnet.native_logs import suppress_native_logs

# What writes the file, and what runs it to check it.
PACKAGES = ("onnx", "tf2onnx", "onnxruntime")


def check_onnx() -> None:
    """Refuses the format where a package is missing."""
    for package in PACKAGES:
        if importlib.util.find_spec(package) is None:
            raise InputError(
                f"The format 'onnx' needs the package {package}; install this package's extra "
                "'onnx'."
            )


def export_onnx(
    model: Model,
    path: str | os.PathLike,
    description: DescriptionLike = None,
    dynamic_batch: bool = False,
) -> None:
    """Exports a Keras model as an .onnx file.

    Its input `image` is float32 `[1, height, width, channels]`, as in the Keras model. The
    description is among the file's properties.

    Args:
        model: a Keras model or .keras file.
        path: of the file to write.
        description: its description, see `open_exportable`.
        dynamic_batch: take any number of images at once.

    Raises:
        InputError: if the model cannot be exported or a package is missing.
    """
    check_onnx()
    import onnx

    network = open_exportable(model, description)
    if network.model is None:
        raise InputError("ONNX files are made of Keras models; pass the .keras file.")
    image: Any = keras.InputSpec(
        shape=(None if dynamic_batch else 1, *network.shape), dtype="float32"
    )
    image.name = "image"
    with suppress_native_logs(), warnings.catch_warnings():
        # The converter asks NumPy for names that NumPy is about to define.
        warnings.simplefilter("ignore", FutureWarning)
        network.model.export(path, format="onnx", input_signature=[image], verbose=False)
    written = onnx.load(path)
    properties = {
        FILE_NAME: network.description.to_json(),
        "author": network.description.author,
        "license": network.description.license,
    }
    onnx.helper.set_model_props(written, properties)
    written.doc_string = network.description.summary
    onnx.save(written, path)
