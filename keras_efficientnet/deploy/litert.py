"""Converts a network to a LiteRT (TFLite) file of built-in operators, in any number format."""

import os
import re
import warnings
from collections import Counter
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from keras_efficientnet.deploy.calibration import CalibrationSet, check_pixels
from keras_efficientnet.deploy.export_options import ExportOptions
from keras_efficientnet.deploy.export_report import Int8Report
from keras_efficientnet.deploy.exportable import (
    DescriptionLike,
    ExportableModel,
    Model,
    open_exportable,
)
from keras_efficientnet.deploy.int8_quantizer import Range, plain_int8, quantize_weights
from keras_efficientnet.deploy.int8_rounding import Rounding
from keras_efficientnet.deploy.int8_search import SearchImages, quantize_int8
from keras_efficientnet.deploy.tflite_metadata import with_metadata
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.native_logs import suppress_native_logs
from keras_efficientnet.task import get_task

Quantization = Literal["float32", "float16", "dynamic", "weight8", "int8", "int16x8"]
QUANTIZATIONS: tuple[Quantization, ...] = get_args(Quantization)
CALIBRATED: tuple[Quantization, ...] = ("int8", "int16x8")
"""Those whose ranges are taken from images."""


def export_tflite(
    model: Model,
    path: str | os.PathLike,
    description: DescriptionLike = None,
    quantize: Quantization = "float32",
    calibration: CalibrationSet | np.ndarray | None = None,
    options: ExportOptions | None = None,
) -> Int8Report | None:
    """Converts a model to a LiteRT file of built-in operators, with standard metadata.

    Nothing compares the file with the model; `export` does.

    Args:
        model: a Keras model, or the path of a .keras file or a SavedModel folder.
        path: of the .tflite file to write.
        description: its description, see `open_exportable`.
        quantize: `"float32"`; `"float16"` weights; `"dynamic"`, 8-bit weights that are
            computed with in 8 bits where the runtime can; `"weight8"`, 8-bit weights that are
            computed with in float32; `"int8"`, everything in 8 bits with uint8 images in and
            uint8 scores out; or `"int16x8"`, 16-bit activations and 8-bit weights, with float
            images in and scores out.
        calibration: for `"weight8"`, images by which weights are rounded, to the nearest step
            without any; for the last two, images that give the ranges of activations. From a
            `CalibrationSet`, int8 is searched for until it agrees with the network; from an array
            of prepared images `[count, height, width, channels]` in 0-255, the whole network is
            quantized without a search.
        options: what is asked of the file; `ExportOptions()` if None.

    Returns:
        What the search for an int8 file did, if there was one.

    Raises:
        InputError: if the model cannot be converted, or calibration images are missing or of
            another size.
        GateError: if no int8 file agrees with the network on the search's images.
    """
    require(quantize in QUANTIZATIONS, "quantize", quantize, f"one of {', '.join(QUANTIZATIONS)}")
    converter = LiteConverter(open_exportable(model, description), options or ExportOptions())
    return converter.write(path, quantize, calibration)


def count_operators(path: str | os.PathLike) -> dict[str, int]:
    """Returns how often each built-in operator is in a LiteRT file, most frequent first."""
    from ai_edge_litert import schema_py_generated as schema

    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    model = schema.Model.GetRootAs(Path(path).read_bytes())
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


class LiteConverter:
    """Converts one network to LiteRT files.

    The float32 file, from which the int8 one is made and with which it is compared, is converted
    once.

    Args:
        network: what to convert.
        options: what is asked of the files.
    """

    def __init__(self, network: ExportableModel, options: ExportOptions):
        self.network, self.options = network, options

    def write(
        self,
        path: str | os.PathLike,
        quantize: Quantization,
        calibration: CalibrationSet | np.ndarray | None = None,
    ) -> Int8Report | None:
        """Writes a file, see `export_tflite`."""
        report = None
        if quantize == "float32":
            content = self._float32
        elif quantize == "weight8":
            content = self._weight8(calibration)
        elif quantize in CALIBRATED:
            search = isinstance(calibration, CalibrationSet)
            images = calibration.images if search else calibration
            if images is None or not len(images):
                raise InputError(
                    f"{quantize} needs calibration images; name training data to take them from."
                )
            check_pixels(images, self.network.shape)
            calibration = calibration if search else CalibrationSet(images, images[:0])
            if quantize == "int8":
                content, report = self._int8(calibration, search)
            else:
                content = self._int16x8(calibration)
        else:
            content = _convert(self.network, self._batch, quantize)
        Path(path).write_bytes(with_metadata(content, self.network))
        return report

    @property
    def _batch(self) -> int | None:
        return None if self.options.dynamic_batch else 1

    @cached_property
    def _float32(self) -> bytes:
        return _convert(self.network, self._batch)

    def _weight8(self, calibration: CalibrationSet | np.ndarray | None) -> bytes:
        if not isinstance(calibration, CalibrationSet):
            images = np.empty((0, *self.network.shape)) if calibration is None else calibration
            check_pixels(images, self.network.shape)
            calibration = CalibrationSet(images, images[:0])
        images = self.network.description.network_input(calibration.range_images)
        rounding = Rounding(self._float32, images).apply if len(images) else None
        return quantize_weights(self._float32, rounding)

    def _int8(self, calibration: CalibrationSet, search: bool) -> tuple[bytes, Int8Report | None]:
        network_input, epochs = self.network.description.network_input, self.options.qat_epochs
        ends = np.array([[0.0], [255.0]]) * np.ones(self.network.shape[2])
        input_range = network_input(ends).min(), network_input(ends).max()
        content = self._float32
        if epochs:
            content = _convert(self._fine_tuned(calibration, input_range), self._batch)
        if not search:
            images = network_input(calibration.range_images)
            return plain_int8(content, images, input_range=input_range), None
        content, report = quantize_int8(
            content,
            SearchImages.of(calibration, network_input),
            self.options.min_agreement,
            task=get_task(self.network.description.task),
            reference=self._float32,
            input_range=input_range,
        )
        return content, replace(report, qat_epochs=epochs)

    def _fine_tuned(self, calibration: CalibrationSet, input_range: Range) -> ExportableModel:
        from keras_efficientnet.deploy.quantization_aware import fine_tune

        if self.network.model is None:
            raise InputError("A SavedModel cannot be fine-tuned; export the .keras file instead.")
        network_input = self.network.description.network_input
        tuned = fine_tune(
            self.network.model,
            network_input(calibration.training_images),
            self.options.qat_epochs,
            range_images=network_input(calibration.range_images),
            input_range=input_range,
        )
        return open_exportable(tuned, self.network.description)

    def _int16x8(self, calibration: CalibrationSet) -> bytes:
        images = calibration.range_images.astype(np.float32)
        # Whatever these images are, a pixel may have any value.
        images[0, 0, 0], images[0, 0, 1] = 0, 255
        return _convert(
            self.network, self._batch, "int16x8", self.network.description.network_input(images)
        )


def _convert(
    network: ExportableModel,
    batch: int | None,
    quantize: Quantization = "float32",
    images: np.ndarray | None = None,
) -> bytes:
    """Converts a network as TensorFlow's converter does, and explains what it cannot convert.

    Args:
        network: what to convert.
        batch: images that the file takes at once; None for any number.
        quantize: any number format but `"int8"`.
        images: for int16x8, images as the network takes them, float32.
    """
    import tensorflow as tf

    image = tf.TensorSpec((batch, *network.shape), tf.float32, name="image")
    function = network.function.get_concrete_function(image)
    ops = tf.lite.OpsSet
    try:
        with suppress_native_logs(), warnings.catch_warnings():
            # It asks for input statistics, which float inputs do not need.
            warnings.filterwarnings("ignore", "Statistics for quantized inputs", UserWarning)
            # Given the model as well, it would leave its variables outside the file.
            converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
            converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS]
            if quantize != "float32":
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
            if quantize == "float16":
                converter.target_spec.supported_types = [tf.float16]
            if images is not None:
                converter.representative_dataset = lambda: ([image[None]] for image in images)
                converter.target_spec.supported_ops = [
                    ops.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
                ]
            return converter.convert()
    except Exception as error:
        lacking = set(re.findall(r"'tf\.(\w+)' op is neither a custom op", str(error)))
        if not lacking:
            raise
        raise InputError(
            f"LiteRT has no built-in operator for {', '.join(sorted(lacking))}, which the "
            "model uses; replace the layer that does."
        ) from error
