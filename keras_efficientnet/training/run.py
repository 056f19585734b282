"""A whole run: from a data set to a folder of verified model files."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from filelock import FileLock, Timeout

from keras_efficientnet import deploy, scaling, variants
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.sources import DataSet
from keras_efficientnet.deploy.export import CALIBRATION_IMAGES
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import size_in_bytes, written_whole
from keras_efficientnet.training import checkpoint, distribution
from keras_efficientnet.training.freezing import CLASSIFIER
from keras_efficientnet.training.loop import Execution, fit
from keras_efficientnet.training.recipes import Recipe, recipe
from keras_efficientnet.weights import load_weights, structure

OUTPUT_ROOT = Path("saved_models")
# Held-out images are kept in memory as pixels; more than this are sampled evenly.
HELD_OUT_BYTES = 2 * 2**30

ARTIFACTS = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "tflite_float32": "model_float32.tflite",
    "tflite_int8": "model_int8.tflite",
}


def train(
    data: DataSet | str = "digits",
    variant: scaling.Variant = "B0",
    *,
    training_recipe: Recipe | None = None,
    image_size: int | None = None,
    seed: int = 0,
    weights: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
    resume: bool = False,
    execution: Execution = Execution(),
) -> dict[str, Any]:
    """Trains a classifier, exports it and checks every exported file.

    While it runs, checkpoints are kept in `OUTPUT.partial`. A run that was ended in any
    way goes on from there when it is called again with `resume` and the same arguments. On
    several hosts (`distribution.on_hosts`) the first process alone reads and writes files.

    Args:
        data: a data set or its name, see `data.sources.load`.
        variant: network to train.
        training_recipe: how; `recipe("small", variant)` if None.
        image_size: side of the input in pixels; by default the data set's own where it
            has one, else the variant's.
        seed: of the initial weights, the order of the images and their augmentation.
        weights: file to start from, as the builders take it. When fine-tuning, what it
            lacks starts fresh.
        output: folder for the results; `saved_models/DATA-VARIANT` if None. It appears
            only when everything is done.
        overwrite: replace an existing folder, and drop an unfinished run.
        resume: go on with an unfinished run, or start where there is none.
        execution: how the machine is used.

    Returns:
        The content of the folder's `report.json`, and its path as `output`; the run's settings
        in a process that writes nothing.

    Raises:
        InputError: if something given cannot be used, the loss is no longer finite, or
            another run is at work in the same folder.
    """
    started = time.monotonic()
    variant = scaling.get_variant(variant)
    training_recipe = training_recipe or recipe("small", variant)
    if training_recipe.fine_tuning and weights is None:
        raise InputError("Fine-tuning needs weights to start from; pass --weights.")
    data = sources.load(data) if isinstance(data, str) else data
    # A set smaller than a batch would give no step at all.
    batch_size = min(training_recipe.batch_size, len(data.train))
    training_recipe = dataclasses.replace(training_recipe, batch_size=batch_size)
    size = image_size or data.image_size or variant.resolution
    output = Path(output or OUTPUT_ROOT / f"{data.name}-{variant.name.lower()}")
    settings = {
        "variant": variant.name,
        "data": data.source,
        "image_size": size,
        "seed": seed,
        "weights": None if weights is None else os.fspath(weights),
        "recipe": dataclasses.asdict(training_recipe),
        "precision": execution.precision,
        "accumulation": execution.accumulation,
        "train_images": len(data.train),
    }
    distribution.leave_devices_to_jax()
    working_folder = contextlib.nullcontext()
    if distribution.is_first():
        print(training_recipe.describe(size), file=sys.stderr)
        working_folder = _working_folder(output, settings, overwrite, resume)

    with working_folder as partial:
        distribution.check_same(settings)
        if execution.deterministic:
            _make_deterministic()
        keras.utils.set_random_seed(seed)
        held_out = _held_out(data, size)
        model = _trained(
            variant, data, training_recipe, size, seed, weights, held_out, execution, partial
        )
        if partial is None:
            return settings
        info = deploy.ModelInfo(variant.name, data.class_names, size, data.crop_fraction)
        with written_whole(output, overwrite, partial / "output") as folder:
            folder.mkdir()
            checked = _export(model, data, info, folder, held_out)
            shutil.copy(partial / "history.csv", folder)
            if (partial / "tensorboard").is_dir():
                shutil.copytree(partial / "tensorboard", folder / "tensorboard")
            report = {
                **settings,
                "epochs": training_recipe.epochs,
                "parameters": model.count_params(),
                "test_images": len(held_out[0]),
                **checked,
                "files": {file: size_in_bytes(folder / file) for file in ARTIFACTS.values()},
                "seconds": round(time.monotonic() - started, 1),
            }
            text = json.dumps(report, indent=1, ensure_ascii=False)
            (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return {**report, "output": str(output)}


def _trained(
    variant, data, training_recipe, size, seed, weights, held_out, execution, partial
) -> keras.Model:
    """Builds the network, trains it, and returns it as it is shipped: float32, of one size."""
    options = {
        "classes": len(data.class_names),
        "dropout_rate": training_recipe.dropout_rate,
        "drop_connect_rate": training_recipe.drop_connect_rate,
    }
    sizes = {stage.image_size for stage in training_recipe.plan(size)}
    shape = (size, size, 3) if sizes == {size} else (None, None, 3)
    with distribution.over_devices(execution.devices), _policy(execution.precision):
        model = variants.EfficientNet(variant, input_shape=shape, **options)
        fresh_from = CLASSIFIER
        if weights is not None:
            fresh_from = _load(model, weights, bool(training_recipe.fine_tuning))
        history = fit(
            model,
            data,
            training_recipe,
            image_size=size,
            seed=seed,
            held_out=held_out,
            fresh_from=fresh_from,
            execution=execution,
            folder=partial,
        )
    if partial:
        _write_history(partial / "history.csv", history)
    shipped = variants.EfficientNet(variant, input_shape=(size, size, 3), **options)
    shipped.set_weights(model.get_weights())
    return shipped


def _load(model: keras.Model, weights: str | os.PathLike, may_lack: bool) -> str:
    """Loads weights and returns the name of the first layer that got none."""
    report = load_weights(model, weights, strict=not may_lack)
    if report.unexpected or report.misshapen or report.differences:
        raise InputError(f"Weights {os.fspath(weights)!r} do not fit: {report.problems()}.")
    if report.missing:
        print(f"Starting fresh what {weights} lacks: {', '.join(report.missing)}", file=sys.stderr)
    fresh = {
        id(variable)
        for name, variable in structure.variables(model).items()
        if name not in report.loaded
    }
    return next(
        (
            layer.name
            for layer in model.layers
            if any(id(variable) in fresh for variable in layer.weights)
        ),
        CLASSIFIER,
    )


@contextlib.contextmanager
def _working_folder(
    output: Path, settings: dict[str, Any], overwrite: bool, resume: bool
) -> Iterator[Path]:
    """Gives the folder of an unfinished run, for this run alone, and removes it at the end.

    Raises:
        InputError: if the output exists, another run is at work, or an unfinished run is
            there that shall not be resumed or was begun otherwise.
    """
    if output.exists() and not overwrite:
        raise InputError(f"Output {str(output)!r} exists; pass --overwrite to replace it.")
    partial = output.with_name(output.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"Cannot write to {str(partial)!r}: {error.strerror}.") from error
    lock = FileLock(partial / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"Another run is at work in {str(partial)!r}; wait for it.") from None
    about = partial / "run.json"
    try:
        if overwrite and not resume:
            _empty(partial)
        if checkpoint.exists(partial):
            if not resume:
                raise InputError(
                    f"An unfinished run is in {str(partial)!r}; pass --resume to go on with it or "
                    "--overwrite to start anew."
                )
            _check_same(json.loads(about.read_text(encoding="utf-8")), settings)
        about.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        yield partial
    finally:
        lock.release()
    shutil.rmtree(partial)


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    now = json.loads(json.dumps(now))
    before, now = {**before, **before.pop("recipe")}, {**now, **now.pop("recipe")}
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise InputError(
                f"The unfinished run has {name}={before.get(name)!r} and not {now.get(name)!r}; "
                "resume it with the options it was begun with, or start anew with --overwrite."
            )


@contextlib.contextmanager
def _policy(precision: str) -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _make_deterministic() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _held_out(data: DataSet, size: int) -> tuple[np.ndarray, np.ndarray]:
    limit = max(1, HELD_OUT_BYTES // (3 * size * size))
    return pipeline.evaluation_arrays(data.test, size, data.crop_fraction, limit)


def _export(
    model: keras.Model,
    data: DataSet,
    info: deploy.ModelInfo,
    folder: Path,
    held_out: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """Writes all model files and the labels, and returns what checking them gave."""
    print("Exporting and checking the model files ...", file=sys.stderr)
    calibration, _ = pipeline.evaluation_arrays(
        data.train, info.image_size, info.crop_fraction, CALIBRATION_IMAGES
    )
    deploy.save_keras(model, folder / ARTIFACTS["keras"], info)
    (folder / "labels.txt").write_text(
        "".join(f"{name}\n" for name in info.class_names), encoding="utf-8"
    )
    if keras.backend.backend() == "tensorflow":
        return _convert(model, info, folder, calibration, held_out)
    return _convert_in_tensorflow(folder, calibration, held_out)


def _convert(model, info, folder, calibration, held_out) -> dict[str, Any]:
    deploy.export_saved_model(model, folder / ARTIFACTS["saved_model"], info)
    deploy.export_tflite(model, folder / ARTIFACTS["tflite_float32"], info)
    deploy.export_tflite(model, folder / ARTIFACTS["tflite_int8"], info, "int8", calibration)
    artifacts = {name: folder / file for name, file in ARTIFACTS.items()}
    return deploy.verify(artifacts, "keras", *held_out)


def _convert_in_tensorflow(folder, calibration, held_out) -> dict[str, Any]:
    """Calls `_convert` on the saved model in a fresh process, for other backends."""
    with tempfile.TemporaryDirectory() as aside:
        arrays, report = Path(aside, "arrays.npz"), Path(aside, "report.json")
        np.savez(arrays, calibration=calibration, images=held_out[0], labels=held_out[1])
        # The devices' memory belongs to the backend that has trained.
        environment = {"KERAS_BACKEND": "tensorflow", "CUDA_VISIBLE_DEVICES": "-1"}
        child = subprocess.run(
            [sys.executable, "-m", __name__, folder, arrays, report],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        if child.returncode:
            raise RuntimeError(f"The export through TensorFlow failed:\n{child.stderr}")
        return json.loads(report.read_text(encoding="utf-8"))


def _main(folder: str, arrays_path: str, report_path: str) -> None:
    model = keras.saving.load_model(Path(folder, ARTIFACTS["keras"]), compile=False)
    info = deploy.read_info(Path(folder, ARTIFACTS["keras"]))
    assert info
    with np.load(arrays_path) as arrays:
        held_out = (arrays["images"], arrays["labels"])
        report = _convert(model, info, Path(folder), arrays["calibration"], held_out)
    Path(report_path).write_text(json.dumps(report), encoding="utf-8")


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


if __name__ == "__main__":
    _main(*sys.argv[1:])
