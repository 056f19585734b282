"""Converts a network to a LiteRT (TFLite) file of built-in operators, in any number format."""

import contextlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np

from keras_efficientnet.deploy.exportable import (
    DescriptionLike,
    ExportableModel,
    Model,
    open_exportable,
)
from keras_efficientnet.deploy.int8_search import Int8Options, plain_int8, quantize_int8
from keras_efficientnet.deploy.tflite_metadata import with_metadata
from keras_efficientnet.errors import InputError
from keras_efficientnet.native_logs import suppress_native_logs

Quantization = Literal["float32", "float16", "dynamic", "int8", "int16x8"]
QUANTIZATIONS: tuple[Quantization, ...] = ("float32", "float16", "dynamic", "int8", "int16x8")
CALIBRATED: tuple[Quantization, ...] = ("int8", "int16x8")
"""Those whose ranges are taken from images."""


def export_tflite(
    model: Model,
    path: str | os.PathLike,
    description: DescriptionLike = None,
    quantize: Quantization = "float32",
    calibration: np.ndarray | None = None,
    dynamic_batch: bool = False,
    check: np.ndarray | None = None,
    int8: Int8Options | None = None,
) -> dict[str, Any]:
    """Converts a model to a LiteRT file of built-in operators, with standard metadata.

    Args:
        model: a Keras model, or the path of a .keras file or a SavedModel folder.
        path: of the .tflite file to write.
        description: its description, see `open_exportable`.
        quantize: `"float32"`; `"float16"` weights; `"dynamic"`, 8-bit weights that are
            computed with in 8 bits where the runtime can; `"int8"`, everything in 8 bits
            with uint8 images in and uint8 scores out; or `"int16x8"`, 16-bit activations
            and 8-bit weights, with float images in and scores out.
        calibration: for the last two, prepared training images `[count, height, width,
            channels]` in 0-255; some hundred give the ranges of the activations.
        dynamic_batch: take any number of images at once. GPUs and NPUs want the shape
            fixed, which is one image.
        check: for int8, prepared images that are not used for calibration, on which the file
            has to agree with the network. Without them it is quantized as a whole, unchecked.
        int8: what is asked of an int8 file; `Int8Options()` if None.

    Returns:
        `operators`: how many of each the file has; and `quantization`: the fields of
        `Int8Report`, where an int8 file was checked.

    Raises:
        InputError: if the model cannot be converted, or calibration images are missing or of
            another size.
        GateError: if no int8 file agrees with the network as asked.
    """
    if quantize not in QUANTIZATIONS:
        raise InputError(f"quantize={quantize!r} must be one of {', '.join(QUANTIZATIONS)}.")
    network = open_exportable(model, description)
    batch = None if dynamic_batch else 1
    report: dict[str, Any] = {}
    if quantize in CALIBRATED:
        inputs = _calibration_inputs(quantize, calibration, network)
        if quantize == "int8":
            content, report = _int8(network, inputs, batch, check, int8 or Int8Options())
        else:
            content = _int16x8(network, inputs, batch)
    else:
        content = _float(network, quantize, batch)
    content = with_metadata(content, network)
    Path(path).write_bytes(content)
    return {"operators": operators(content), "quantization": report}


def operators(content: bytes) -> dict[str, int]:
    """Returns how often each built-in operator stands in a LiteRT file, most frequent first."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    model = schema.Model.GetRootAs(content)
    kinds: list[str] = []
    for index in range(model.OperatorCodesLength()):
        kind: Any = model.OperatorCodes(index)
        # Files from before there were 128 operators have the code in the other field.
        code = max(kind.BuiltinCode(), kind.DeprecatedBuiltinCode())
        kinds.append((kind.CustomCode() or b"").decode() or names[code])
    graphs: list[Any] = [model.Subgraphs(index) for index in range(model.SubgraphsLength())]
    counts = Counter(
        kinds[graph.Operators(index).OpcodeIndex()]
        for graph in graphs
        for index in range(graph.OperatorsLength())
    )
    return dict(counts.most_common())


def _int8(
    network: ExportableModel,
    images: np.ndarray,
    batch: int | None,
    check: np.ndarray | None,
    options: Int8Options,
) -> tuple[bytes, dict[str, Any]]:
    """Quantizes a network to 8 bits, with uint8 images in and uint8 scores out.

    Args:
        network: what to convert.
        images: calibration images as the network takes them, float32.
        batch: images that the file takes at once; None for any number.
        check: images `[count, *shape]` in 0-255 to hold the file to the gate on.
        options: what is asked of it.

    Returns:
        The content of a .tflite file without metadata, and what reports shall say of it.
    """
    content = reference = _float(network, "float32", batch)
    if options.qat_epochs:
        content = _float(_fine_tuned(network, images, options.qat_epochs), "float32", batch)
    if check is None:
        return plain_int8(content, images), {}
    check = network.description.network_input(check).astype(np.float32)
    content, report = quantize_int8(content, images, check, options.min_agreement, reference)
    said = {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in asdict(report).items()
    }
    return content, {**said, "qat_epochs": options.qat_epochs}


def _fine_tuned(network: ExportableModel, images: np.ndarray, epochs: int) -> ExportableModel:
    from keras_efficientnet.deploy.quantization_aware import fine_tune

    if network.model is None:
        raise InputError("A SavedModel cannot be fine-tuned; export the .keras file instead.")
    return open_exportable(fine_tune(network.model, images, epochs), network.description)


def _int16x8(network: ExportableModel, images: np.ndarray, batch: int | None) -> bytes:
    import tensorflow as tf

    with _converter(network, batch) as converter:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [
            ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        return converter.convert()


def _float(network: ExportableModel, quantize: Quantization, batch: int | None) -> bytes:
    import tensorflow as tf

    with _converter(network, batch) as converter:
        if quantize != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        return converter.convert()


@contextlib.contextmanager
def _converter(network: ExportableModel, batch: int | None) -> Iterator[Any]:
    """Gives a converter, and explains what it cannot convert."""
    import tensorflow as tf

    image = tf.TensorSpec((batch, *network.shape), tf.float32, name="image")
    function = network.function.get_concrete_function(image)
    with suppress_native_logs(), warnings.catch_warnings():
        # It asks for input statistics, which uint8 images do not need.
        warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)
        # Given the model as well, the converter would leave its variables outside the file.
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        try:
            yield converter
        except Exception as error:
            lacking = set(re.findall(r"'tf\.(\w+)' op is neither a custom op", str(error)))
            if not lacking:
                raise
            raise InputError(
                f"LiteRT has no built-in operator for {', '.join(sorted(lacking))}, which the "
                "model uses; replace the layer that does."
            ) from error


def _calibration_inputs(
    quantize: Quantization, images: np.ndarray | None, network: ExportableModel
) -> np.ndarray:
    """Returns calibration images as the network takes them, float32."""
    if images is None or not len(images):
        raise InputError(
            f"{quantize} needs calibration images; name training data to take them from."
        )
    if images.shape[1:] != network.shape:
        raise InputError(
            f"Calibration images of shape {images.shape[1:]} do not fit a model that takes "
            f"{network.shape}; resize them, or name a data set, whose images are."
        )
    images = images.astype(np.float32)
    # Readers hand over bytes as they are, so that a step of the input must be one of a pixel.
    images[0, 0, 0], images[0, 0, 1] = 0, 255
    return network.description.network_input(images).astype(np.float32)
