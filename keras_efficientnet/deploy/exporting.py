"""Exports a model: every file is compared with the model before it is put in place."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np

from keras_efficientnet.bars import Bar
from keras_efficientnet.data import sources
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.deploy import model_card
from keras_efficientnet.deploy.benchmarking import single_image_latency
from keras_efficientnet.deploy.calibration import CalibrationSet
from keras_efficientnet.deploy.evaluation import by_position
from keras_efficientnet.deploy.export_options import ExportOptions
from keras_efficientnet.deploy.export_report import (
    ExportedFile,
    ExportError,
    ExportReport,
    FailedFile,
    Int8Report,
)
from keras_efficientnet.deploy.exportable import (
    DescriptionLike,
    ExportableModel,
    Model,
    normalizes,
    open_exportable,
)
from keras_efficientnet.deploy.fresh_interpreter import call
from keras_efficientnet.deploy.litert import (
    CALIBRATED,
    QUANTIZATIONS,
    LiteConverter,
    Quantization,
    count_operators,
)
from keras_efficientnet.deploy.onnx import check_onnx, export_onnx
from keras_efficientnet.deploy.saved_model import export_saved_model, save_keras
from keras_efficientnet.deploy.tflite_metadata import per_channel
from keras_efficientnet.deploy.verification import Gate, reporting
from keras_efficientnet.description import ModelDescription
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.files import atomic_write, size_in_bytes
from keras_efficientnet.task import get_task

Format = Literal["keras", "saved_model", "tflite", "onnx"]
FORMATS: tuple[Format, ...] = ("keras", "saved_model", "tflite", "onnx")
CalibrationLike = CalibrationSet | Dataset | Callable[[], Dataset] | str | np.ndarray | None
"""A calibration set or what one is made of.

From a data set, its name, or a function that opens one, training images calibrate int8 and int16x8,
and held-out images compare the files; a classifier of as many classes that has no class names takes
the data's, and its crop. Of an array of prepared images `[count, size, size, channels]` in 0-255,
every fifth is held out. Without any, random pixels compare the files.
"""


def export(
    model: Model,
    directory: str | os.PathLike,
    formats: Format | Sequence[Format] = "tflite",
    quantize: Quantization | Sequence[Quantization] = "float32",
    calibration: CalibrationLike = None,
    *,
    description: DescriptionLike = None,
    options: ExportOptions | None = None,
    overwrite: bool = False,
) -> ExportReport:
    """Exports a model in any formats, and compares every file with it.

    Each file is reloaded in a fresh interpreter, run on images, and compared with the model
    by numbers; only then is it put in place. One that fails does not keep the others back.
    A model card, `model_card.md`, is written beside them, or the table of one that is there
    brought up to date.

    Args:
        model: a Keras model, or the path of a .keras file or a SavedModel folder. One that
            computes in half precision is exported in float32.
        directory: folder to write `model.keras`, `saved_model`, `model_QUANTIZE.tflite` and
            `model.onnx` into.
        formats: one or several of `"keras"`, `"saved_model"`, `"tflite"` and `"onnx"`.
        quantize: number formats of the .tflite files, see `export_tflite`.
        calibration: images to calibrate with and to compare on, see `CalibrationLike`.
        description: a description of the model, with its class names, or single fields of one,
            as in `{"class_names": names}`. What it leaves open is taken from the file or the model.
        options: what is asked of the files; `ExportOptions()` if None.
        overwrite: replace existing files.

    Raises:
        InputError: before any work, if the model or an option cannot be used.
        ExportError: in the end, if a file could not be made, does not run, or does not give what
            the model gives.
    """
    directory, options = Path(directory).expanduser(), options or ExportOptions()
    targets = _targets(formats, quantize)
    _check_request(directory, targets, calibration, overwrite)
    exportable = open_exportable(model, description)
    _check_source(exportable, targets, options)
    data = _opened(calibration, exportable.description)
    doubts = []
    if isinstance(data, Dataset):
        if not exportable.description.class_names and _as_many_classes(exportable, data):
            doubts.append(by_position(data.class_names))
        exportable = _named(exportable, data, description)
        exportable.description.check_range(data.pixel_range)
    images = _calibration_set(data, exportable, training=options.qat_epochs > 0)
    warnings = _warnings(exportable, targets, images, doubts)
    job = _Job(directory, targets, images, options, overwrite)
    # A SavedModel is TensorFlow's own on any backend.
    here = keras.backend.backend() == "tensorflow" or exportable.model is None
    report = (_write_files if here else _write_in_tensorflow)(exportable, job)
    left_out = data.left_out if isinstance(data, Dataset) else ()
    report = replace(report, left_out=left_out, warnings=warnings)
    if report.files:
        model_card.update(directory / model_card.FILE_NAME, exportable, report)
    if report.failed:
        raise ExportError(report)
    return report


@dataclass(frozen=True)
class _Target:
    """A file to write."""

    name: str
    format: Format
    number_format: Quantization = "float32"


@dataclass(frozen=True)
class _Job:
    """What to write, where, with which images, and what is asked of it."""

    directory: Path
    targets: tuple[_Target, ...]
    images: CalibrationSet
    options: ExportOptions
    overwrite: bool


def _targets(formats: Any, quantize: Any) -> tuple[_Target, ...]:
    """Returns the files to write, in the order of `FORMATS`."""
    formats = _chosen("formats", formats, FORMATS)
    if "tflite" not in formats and quantize != "float32":
        raise InputError(f"quantize={quantize!r} goes with the format 'tflite'.")
    targets = (
        _Target("model.keras", "keras"),
        _Target("saved_model", "saved_model"),
        *(
            _Target(f"model_{number_format}.tflite", "tflite", number_format)
            for number_format in _chosen("quantize", quantize, QUANTIZATIONS)
        ),
        _Target("model.onnx", "onnx"),
    )
    return tuple(target for target in targets if target.format in formats)


def _chosen(option: str, given: Any, known: tuple) -> tuple:
    """Returns one or several values of an option as a tuple, each once."""
    values = tuple(dict.fromkeys([given] if isinstance(given, str) else given))
    valid = bool(values) and set(values) <= set(known)
    require(valid, option, given, f"one or several of {', '.join(known)}")
    return values


def _calibrated(targets: Sequence[_Target]) -> list[str]:
    """Returns the number formats among the files whose ranges are taken from images."""
    return [target.number_format for target in targets if target.number_format in CALIBRATED]


def _check_request(
    directory: Path, targets: Sequence[_Target], calibration: CalibrationLike, overwrite: bool
) -> None:
    """Refuses what can be refused before anything is loaded."""
    calibrated = _calibrated(targets)
    if calibrated and calibration is None:
        raise InputError(
            f"{calibrated[0]} needs calibration images; name training data (--calibration) to "
            "take them from."
        )
    if any(target.format == "onnx" for target in targets):
        check_onnx()
    for target in targets:
        path = directory / target.name
        if path.exists() and not overwrite:
            raise InputError(f"Output {str(path)!r} exists; pass --overwrite to replace it.")


def _check_source(
    exportable: ExportableModel, targets: Sequence[_Target], options: ExportOptions
) -> None:
    """Refuses what a SavedModel cannot be made into."""
    if exportable.model is not None:
        return
    others = dict.fromkeys(target.format for target in targets if target.format != "tflite")
    if others:
        raise InputError(
            "A SavedModel can be exported as tflite only; export the .keras file that it was made "
            f"from as {', '.join(others)}."
        )
    if options.qat_epochs:
        raise InputError("A SavedModel cannot be fine-tuned; export the .keras file instead.")


def _opened(
    calibration: CalibrationLike, description: ModelDescription
) -> CalibrationSet | Dataset | np.ndarray | None:
    """Opens a data set that is given by its name or as a function."""
    if isinstance(calibration, str):
        return sources.load(calibration, pixel_range=description.pixel_range)
    return calibration() if callable(calibration) else calibration


def _named(
    exportable: ExportableModel, data: Dataset, description: DescriptionLike
) -> ExportableModel:
    """Gives a classifier without class names those of the data, and the crop they go with."""
    if isinstance(description, ModelDescription) or not _as_many_classes(exportable, data):
        return exportable
    given = description or {}
    if exportable.description.class_names and "class_names" not in given:
        return exportable
    copied = ("class_names", "crop_fraction", "pixel_range")
    fields = {name: getattr(data, name) for name in copied}
    return open_exportable(exportable, {**fields, **given})


def _as_many_classes(exportable: ExportableModel, data: Dataset) -> bool:
    return exportable.output_shape == (len(data.class_names),)


def _calibration_set(
    calibration: CalibrationSet | Dataset | np.ndarray | None,
    exportable: ExportableModel,
    training: bool,
) -> CalibrationSet:
    """Makes a calibration set that fits the model."""
    description, shape = exportable.description, exportable.shape
    if calibration is None:
        return CalibrationSet.of_random_pixels(shape)
    if isinstance(calibration, Dataset):
        if shape[2] != 3:
            raise InputError(
                f"{description.title} takes images of {shape[2]} channels, and data sets have "
                "three; calibrate it with an array of prepared images."
            )
        same = _as_many_classes(exportable, calibration)
        calibration = CalibrationSet.from_dataset(
            calibration,
            description.image_size,
            description.crop_fraction,
            class_names=description.class_names or (calibration.class_names if same else ()),
            training=training,
            interpolation=description.interpolation,
        )
    elif not isinstance(calibration, CalibrationSet):
        calibration = CalibrationSet.from_array(calibration)
    calibration.check(shape)
    return calibration


def _warnings(
    exportable: ExportableModel,
    targets: Sequence[_Target],
    images: CalibrationSet,
    doubts: Sequence[str],
) -> tuple[str, ...]:
    """Returns what may be wrong with the files, and prints it before they are made."""
    warnings = list(doubts)
    if _calibrated(targets):
        warnings += images.doubts(exportable.output_shape[0] if exportable.classifies else 0)
    model, description = exportable.model, exportable.description
    if model and description.takes_raw_pixels and not normalizes(model):
        warnings.append(
            f"{description.title} does not normalize its images, so the files say that it "
            "takes raw pixels in 0-255; if it takes others, say which (ModelDescription's "
            "pixel_mean and pixel_std)."
        )
    if per_channel(description) and any(target.format == "tflite" for target in targets):
        warnings.append(
            "MediaPipe will not take the .tflite files: it normalizes all channels alike, and "
            f"{description.title} wants a mean and deviation for each. Build the model with "
            "include_preprocessing=True for MediaPipe; other readers take the files."
        )
    for warning in warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    return tuple(warnings)


def _write_files(exportable: ExportableModel, job: _Job) -> ExportReport:
    """Writes the files one by one, and puts those in place that the gate lets pass."""
    images, labels = job.images.gate_images, job.images.gate_labels
    description, task = exportable.description, get_task(exportable.description.task)
    expected = exportable.scores(images)
    if not np.isfinite(expected).all():
        raise InputError(f"{description.title} gives outputs that are no numbers.")
    inputs = description.network_input(images)
    deciding = job.images.deciding
    others = reporting(deciding)
    gate = Gate(
        inputs,
        expected,
        deciding,
        task,
        job.options.min_agreement,
        labels=labels,
        class_names=description.class_names,
        strict=job.options.strict_gate,
        compared_on=job.images.compared_on,
    )
    converter = LiteConverter(exportable, job.options)
    files, failed = [], []
    for target in Bar(job.targets, "Exporting", unit="file", leave=False):
        try:
            files.append(_write_file(converter, target, job, gate))
        except Exception as error:  # of whatever kind, the other files are worth having
            if not isinstance(error, InputError | RuntimeError | OSError):
                traceback.print_exception(error)
            failed.append(FailedFile(target.name, str(error)))
    return ExportReport(
        directory=str(job.directory),
        files=tuple(files),
        failed=tuple(failed),
        images=int(deciding.sum()),
        compared_on=job.images.compared_on,
        source_accuracy=None
        if labels is None
        else float(task.correct(expected, labels)[others].mean()),
        preprocessing=description.preprocessing,
        reported_images=0 if labels is None else int(others.sum()),
    )


def _write_file(converter: LiteConverter, target: _Target, job: _Job, gate: Gate) -> ExportedFile:
    """Writes one file, and puts it in place if the gate lets it pass."""
    path = job.directory / target.name
    with atomic_write(path, job.overwrite) as written:
        int8 = _convert(converter, target, written, job.images)
        found = gate.judge(written, target.number_format)
        latency = single_image_latency(written, gate.images[0])
    return ExportedFile(
        name=target.name,
        format=target.format,
        number_format=target.number_format,
        size=size_in_bytes(path),
        latency_ms=latency,
        **vars(found),
        operators=count_operators(path) if target.format == "tflite" else {},
        int8=int8,
    )


def _convert(
    converter: LiteConverter, target: _Target, path: Path, images: CalibrationSet
) -> Int8Report | None:
    exportable = converter.network
    if target.format == "keras":
        save_keras(exportable.model, path, exportable.description)
    elif target.format == "saved_model":
        export_saved_model(exportable, path)
    elif target.format == "onnx":
        export_onnx(exportable, path, dynamic_batch=converter.options.dynamic_batch)
    else:
        return converter.write(path, target.number_format, images)
    return None


def _write_in_tensorflow(exportable: ExportableModel, job: _Job) -> ExportReport:
    """Calls `_write_files` in a fresh interpreter, for a model of another backend."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.keras")
        save_keras(exportable.model, path, exportable.description)
        # The devices' memory belongs to the backend that has trained.
        environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        return call(_write_from, path, job, **environment)


def _write_from(path: Path, job: _Job) -> ExportReport:
    return _write_files(open_exportable(path), job)
