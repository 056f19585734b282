"""Exports a model: every file is checked against the model before it is put in place."""

import json
import os
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from tqdm import tqdm

from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.deploy import model_card
from keras_efficientnet.deploy.exportable import (
    DescriptionLike,
    ExportableModel,
    Model,
    normalizes,
    open_exportable,
)
from keras_efficientnet.deploy.int8_search import Int8Options
from keras_efficientnet.deploy.litert import (
    CALIBRATED,
    QUANTIZATIONS,
    Quantization,
    export_tflite,
)
from keras_efficientnet.deploy.onnx import check_onnx, export_onnx
from keras_efficientnet.deploy.saved_model import export_saved_model, save_keras
from keras_efficientnet.deploy.verification import verify
from keras_efficientnet.description import ModelDescription
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write, size_in_bytes

Format = Literal["keras", "saved_model", "tflite", "onnx"]
FORMATS: tuple[Format, ...] = ("keras", "saved_model", "tflite", "onnx")
# Training images that quantization takes its ranges from, and how many are few.
CALIBRATION_IMAGES = 200
# Training images that fine-tuning under 8 bits goes through.
QAT_IMAGES = 2000
FEW_IMAGES = 32
# Images that files are compared on: held-out ones at most, and random ones for want of any.
CHECK_IMAGES = 1000
RANDOM_IMAGES = 16
# Share of the outputs' range that a float32 file may be off: runtimes add up in other orders.
TOLERANCE = 1e-3
_FLOAT32 = ("keras", "saved_model", "tflite_float32", "onnx")


@dataclass(frozen=True)
class Calibration:
    """Images that an export is calibrated and checked on, prepared as in evaluation.

    Attributes:
        images: of the training set, `[count, size, size, channels]` in 0-255.
        held_out: others, that the files are compared on.
        labels: class indices of these, in the order of the model's outputs, if known.
    """

    images: np.ndarray
    held_out: np.ndarray
    labels: np.ndarray | None = None


class ExportError(RuntimeError):
    """Some of the files could not be made; the others are in place.

    Attributes:
        report: what `export` would have returned, with the reasons in its `failed`.
    """

    def __init__(self, report: dict[str, Any]):
        self.report = report
        names, reasons = list(report["failed"]), list(report["failed"].values())
        kept = f"; in place are {', '.join(report['files'])}" if report["files"] else ""
        super().__init__(f"{', '.join(names)} could not be made{kept}: {' '.join(reasons)}")


def export(
    model: Model,
    directory: str | os.PathLike,
    formats: Format | Sequence[Format] = "tflite",
    quantize: Quantization | Sequence[Quantization] = "float32",
    calibration: Dataset | Callable[[], Dataset] | str | Calibration | np.ndarray | None = None,
    *,
    description: DescriptionLike = None,
    dynamic_batch: bool = False,
    int8: Int8Options | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Exports a model in any formats, and checks every file against it.

    Each file is reloaded in a fresh interpreter, run on images, and compared with the model
    by numbers; only then is it put in place. A file that fails costs none of the others.
    A model card, `model_card.md`, is written beside them, or the table of one that is there
    brought up to date.

    Args:
        model: a Keras model, or the path of a .keras file or a SavedModel folder. One that
            computes in half precision is exported in float32.
        directory: folder to write `model.keras`, `saved_model`, `model_QUANTIZE.tflite` and
            `model.onnx` into.
        formats: one or several of `"keras"`, `"saved_model"`, `"tflite"` and `"onnx"`.
        quantize: number formats of the .tflite files, see `export_tflite`.
        calibration: a data set, a function that opens one, or its name: its training images
            calibrate int8 and int16x8, and its held-out ones compare the files. A classifier
            of as many classes that has no class names takes the data's, and its crop. Or
            prepared images `[count, size, size, channels]` in 0-255, of which a fifth is held
            out. Without it, random pixels compare the files.
        description: a description of the model, with its class names, or single fields of one,
            as in `{"class_names": names}`. What it leaves open is taken from the file or the model.
        dynamic_batch: let .tflite and .onnx files take any number of images, not one.
        int8: what is asked of an int8 file: how well it must agree with the model, and
            whether to fine-tune for it; `Int8Options()` if None.
        overwrite: replace existing files.

    Returns:
        Maps over `keras`, `saved_model`, `tflite_QUANTIZE` and `onnx`: `agreement`,
        `max_abs_difference` and `test_accuracy` as `verify` gives them, `operators` of
        .tflite files, `quantization`, what int8 took (`Int8Report`), and `failed`. `files`, each
        file's size in bytes. Of the model itself, `source_accuracy`. `images`, how many the
        files were compared on, and `compared_on`, of which kind; `preprocessing`; `skipped`,
        images that were left out; `warnings`; and the directory as `output`.

    Raises:
        InputError: before any work, if the model or an option cannot be used.
        ExportError: in the end, if a file could not be made, does not run, or gives other
            numbers than the model.
    """
    directory = Path(directory)
    formats = _chosen("formats", formats, FORMATS)
    if "tflite" not in formats and quantize != "float32":
        raise InputError(f"quantize={quantize!r} goes with the format 'tflite'.")
    kinds = _chosen("quantize", quantize, QUANTIZATIONS) if "tflite" in formats else ()
    artifacts = _artifacts(formats, kinds)
    calibrated = [kind for kind in kinds if kind in CALIBRATED]
    _check_request(directory, artifacts, calibrated, calibration, overwrite)
    network = open_exportable(model, description)
    if network.model is None and formats != ("tflite",):
        raise InputError(
            "A SavedModel can be exported as tflite only; export the .keras file that it was made "
            f"from as {', '.join(formats)}."
        )
    int8 = int8 or Int8Options()
    if int8.qat_epochs and network.model is None:
        raise InputError("A SavedModel cannot be fine-tuned; export the .keras file instead.")
    limit = QAT_IMAGES if int8.qat_epochs else CALIBRATION_IMAGES
    if isinstance(calibration, str):
        calibration = sources.load(calibration)
    elif callable(calibration):
        calibration = calibration()
    if isinstance(calibration, Dataset):
        network = _named(network, calibration, description)
    images, notes = _images(calibration, network, bool(calibrated), limit)
    for warning in notes["warnings"]:
        print(f"Warning: {warning}", file=sys.stderr)
    write = _write if keras.backend.backend() == "tensorflow" else _write_in_tensorflow
    report = write(network, directory, artifacts, images, dynamic_batch, int8, overwrite)
    report |= {
        **notes,
        "preprocessing": network.description.preprocessing,
        "output": str(directory),
    }
    if report["files"]:
        model_card.update(directory / model_card.FILE_NAME, network, report)
    if report["failed"]:
        raise ExportError(report)
    return report


def _chosen(option: str, given: Any, known: tuple) -> tuple:
    """Returns one or several values of an option as a tuple, each once."""
    values = tuple(dict.fromkeys([given] if isinstance(given, str) else given))
    if not values or not set(values) <= set(known):
        raise InputError(f"{option}={given!r} must be one or several of {', '.join(known)}.")
    return values


def _artifacts(formats: tuple[Format, ...], kinds: tuple[Quantization, ...]) -> dict[str, str]:
    """Returns the files to write by the names they have in reports."""
    files = {
        "keras": "model.keras",
        "saved_model": "saved_model",
        **{f"tflite_{kind}": f"model_{kind}.tflite" for kind in kinds},
        "onnx": "model.onnx",
    }
    return {name: file for name, file in files.items() if name.startswith(formats)}


def _check_request(
    directory: Path,
    artifacts: Mapping[str, str],
    calibrated: Sequence[str],
    calibration: Any,
    overwrite: bool,
) -> None:
    """Refuses what can be refused before anything is loaded."""
    if calibrated and calibration is None:
        raise InputError(
            f"{calibrated[0]} needs calibration images; name training data (--calibration) to "
            "take them from."
        )
    if "onnx" in artifacts:
        check_onnx()
    for file in artifacts.values():
        if (directory / file).exists() and not overwrite:
            raise InputError(
                f"Output {str(directory / file)!r} exists; pass --overwrite to replace it."
            )


def _named(
    network: ExportableModel, data: Dataset, description: DescriptionLike
) -> ExportableModel:
    """Gives a classifier without class names those of the data, and the crop they go with."""
    if isinstance(description, ModelDescription) or network.output_shape != (
        len(data.class_names),
    ):
        return network
    told = description or {}
    if network.description.class_names and "class_names" not in told:
        return network
    fields = {"class_names": data.class_names, "crop_fraction": data.crop_fraction}
    return open_exportable(network, {**fields, **told})


def _images(
    calibration: Any,
    network: ExportableModel,
    must_calibrate: bool,
    limit: int = CALIBRATION_IMAGES,
) -> tuple[Calibration, dict[str, Any]]:
    """Returns prepared images, and what a report says of them."""
    notes: dict[str, Any] = {"compared_on": "held-out images", "skipped": [], "warnings": []}
    classes = None
    if calibration is None:
        shape = (RANDOM_IMAGES, *network.shape)
        pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        found = Calibration(pixels[:0], pixels)
        notes["compared_on"] = "images of random pixels"
    elif isinstance(calibration, Calibration):
        found = calibration
    elif isinstance(calibration, Dataset):
        found, classes = _from_data(calibration, network, limit)
        notes["skipped"] = [{"file": file, "reason": why} for file, why in calibration.skipped]
    else:
        found = _from_array(np.asarray(calibration))
        if found.held_out is found.images:
            notes["compared_on"] = "calibration images themselves"
    _check_shapes(found, network)
    if must_calibrate:
        notes["warnings"] += _doubts(found.images, classes, network)
    if network.model and network.description.takes_raw_pixels and not normalizes(network.model):
        notes["warnings"].append(
            f"{network.description.title} does not normalize its images, so the files say that it "
            "takes raw pixels in 0-255; if it takes others, say which (ModelDescription's "
            "pixel_mean and pixel_std)."
        )
    return found, notes


def _from_data(
    data: Dataset, network: ExportableModel, limit: int
) -> tuple[Calibration, np.ndarray]:
    """Prepares images of a data set, and returns the classes of those that calibrate."""
    description = network.description
    if network.shape[2] != 3:
        raise InputError(
            f"{description.title} takes images of {network.shape[2]} channels, and data sets have "
            "three; calibrate it with an array of prepared images."
        )
    images, classes = pipeline.evaluation_arrays(
        data.train, description.image_size, description.crop_fraction, limit
    )
    held_out, labels = pipeline.evaluation_arrays(
        data.test, description.image_size, description.crop_fraction, CHECK_IMAGES
    )
    known = description.class_names
    if known and set(data.class_names) <= set(known):
        labels = np.array([known.index(name) for name in data.class_names])[labels]
    elif known or network.output_shape != (len(data.class_names),):
        labels = None  # other classes than the model's
    return Calibration(images, held_out, labels), classes


def _from_array(images: np.ndarray) -> Calibration:
    """Holds every fifth image out, where there are so many."""
    held_out = np.arange(len(images)) % 5 == 4
    if not held_out.any():
        return Calibration(images, images)
    return Calibration(images[~held_out], images[held_out])


def _check_shapes(images: Calibration, network: ExportableModel) -> None:
    for pixels in (images.images, images.held_out):
        if pixels.shape[1:] != network.shape:
            raise InputError(
                f"Calibration images of shape {pixels.shape[1:]} do not fit a model that takes "
                f"{network.shape}; resize them (ke.data.images.prepare), or name a data set, whose "
                "images are resized for you."
            )
        if len(pixels) and not (np.min(pixels) >= 0 and np.max(pixels) <= 255):
            raise InputError("Calibration images must be pixels in 0-255, not normalized ones.")
    if not len(images.held_out):
        raise InputError("There are no images to calibrate with or to compare files on.")


def _doubts(images: np.ndarray, classes: np.ndarray | None, network: ExportableModel) -> list[str]:
    """Says why ranges that are taken from these images may be wrong."""
    doubts = []
    if len(images) < FEW_IMAGES:
        doubts.append(
            f"{len(images)} calibration images are few to take ranges from, and a quantized file "
            f"may be worse for it; {CALIBRATION_IMAGES} of the training images are a good number."
        )
    several = network.classifies and network.output_shape[0] > 1
    if classes is not None and several and len(np.unique(classes)) == 1:
        doubts.append(
            "All calibration images are of one class, and a quantized file may be worse for the "
            "others; name data with images of every class."
        )
    return doubts


def _write(
    network: ExportableModel,
    directory: Path,
    artifacts: Mapping[str, str],
    images: Calibration,
    dynamic_batch: bool,
    int8: Int8Options,
    overwrite: bool,
) -> dict[str, Any]:
    """Writes and checks the files one by one."""
    expected = network.scores(images.held_out)
    if not np.isfinite(expected).all():
        raise InputError(f"{network.description.title} gives outputs that are no numbers.")
    inputs = network.description.network_input(images.held_out)
    report: dict[str, Any] = {name: {} for name in ("files", "failed", "operators", "quantization")}
    report["images"] = len(inputs)
    if images.labels is not None:
        report["source_accuracy"] = float(np.mean(expected.argmax(1) == images.labels))
    for name, file in tqdm(artifacts.items(), "Exporting", unit="file", leave=False, disable=None):
        try:
            with atomic_write(directory / file, overwrite) as path:
                details = _write_one(network, name, path, images, dynamic_batch, int8)
                checked = verify({name: path}, expected, inputs, images.labels)
                _refuse_other_numbers(name, checked, expected)
        except Exception as error:  # of whatever kind, the other files are worth having
            if not isinstance(error, InputError | RuntimeError | OSError):
                traceback.print_exception(error)
            report["failed"][name] = str(error)
            continue
        report["files"][file] = size_in_bytes(directory / file)
        for key, values in checked.items():
            report.setdefault(key, {}).update(values)
        for key in ("operators", "quantization"):
            if details.get(key):
                report[key][name] = details[key]
    return report


def _write_one(
    network: ExportableModel,
    name: str,
    path: Path,
    images: Calibration,
    dynamic_batch: bool,
    int8: Int8Options,
) -> dict[str, Any]:
    if name == "keras":
        save_keras(network.model, path, network.description)
    elif name == "saved_model":
        export_saved_model(network, path)
    elif name == "onnx":
        export_onnx(network, path, dynamic_batch=dynamic_batch)
    else:
        kind: Any = name.removeprefix("tflite_")
        return export_tflite(
            network,
            path,
            quantize=kind,
            calibration=images.images,
            dynamic_batch=dynamic_batch,
            check=images.held_out,
            int8=int8,
        )
    return {}


def _refuse_other_numbers(name: str, checked: dict[str, Any], expected: np.ndarray) -> None:
    difference = checked["max_abs_difference"][name]
    # Not "greater than", which a difference that is no number is not either.
    if name in _FLOAT32 and not difference <= TOLERANCE * max(np.ptp(expected), 1e-3):
        raise RuntimeError(
            f"The file gives other outputs than the model, by up to {difference:.1e}."
        )


def _write_in_tensorflow(
    network: ExportableModel,
    directory: Path,
    artifacts: Mapping[str, str],
    images: Calibration,
    dynamic_batch: bool,
    int8: Int8Options,
    overwrite: bool,
) -> dict[str, Any]:
    """Calls `_write` in a fresh process, for a model of another backend."""
    if network.model is None:  # a SavedModel, which is TensorFlow's own
        return _write(network, directory, artifacts, images, dynamic_batch, int8, overwrite)
    with tempfile.TemporaryDirectory() as folder:
        save_keras(network.model, Path(folder, "model.keras"), network.description)
        arrays: dict[str, Any] = {
            name: array for name, array in vars(images).items() if array is not None
        }
        np.savez(Path(folder, "images.npz"), **arrays)
        request = {
            "directory": os.fspath(directory.absolute()),
            "artifacts": dict(artifacts),
            "dynamic_batch": dynamic_batch,
            "int8": asdict(int8),
            "overwrite": overwrite,
        }
        Path(folder, "request.json").write_text(json.dumps(request), encoding="utf-8")
        # The devices' memory belongs to the backend that has trained.
        environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        child = subprocess.run(
            [sys.executable, "-m", __name__, folder],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if child.returncode:
            raise RuntimeError(f"The export through TensorFlow failed:\n{child.stderr}")
        report = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    if "refused" in report:
        raise InputError(report["refused"])
    return report


def _main(folder: str) -> None:
    """The other side of `_write_in_tensorflow`."""
    request = json.loads(Path(folder, "request.json").read_text(encoding="utf-8"))
    request["directory"], request["int8"] = (
        Path(request["directory"]),
        Int8Options(**request["int8"]),
    )
    network = open_exportable(Path(folder, "model.keras"))
    with np.load(Path(folder, "images.npz")) as arrays:
        images = Calibration(**arrays)
    try:
        report = _write(network, images=images, **request)
    except InputError as error:
        report = {"refused": str(error)}
    Path(folder, "report.json").write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    _main(sys.argv[1])
