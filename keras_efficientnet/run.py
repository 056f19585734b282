"""A whole run: from a data set to a folder of verified model files."""

import contextlib
import csv
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from filelock import FileLock, Timeout

from keras_efficientnet import deploy, scaling, spec, variants
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.deploy.exporting import CALIBRATION_IMAGES
from keras_efficientnet.description import ModelDescription
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write
from keras_efficientnet.report import write_report
from keras_efficientnet.training import distribution, run_checkpoints
from keras_efficientnet.training.freezing import CLASSIFIER
from keras_efficientnet.training.recipes import Recipe, recipe
from keras_efficientnet.training.trainer import RunConfig, fit
from keras_efficientnet.weights import load_weights, structure

OUTPUT_ROOT = Path("saved_models")
# Held-out images are kept in memory as pixels; more than this are sampled evenly.
HELD_OUT_BYTES = 2 * 2**30


def train(
    data: Dataset | str = "digits",
    variant: scaling.Variant = "B0",
    *,
    training_recipe: Recipe | None = None,
    image_size: int | None = None,
    seed: int = 0,
    weights: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
    resume: bool = False,
    run_config: RunConfig | None = None,
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
        resume: go on with an unfinished run, start where there is none, and return the
            report of a finished one.
        run_config: how the machine is used; `RunConfig()` if None.

    Returns:
        The content of the folder's `report.json`, and its path as `output`; the settings in
        a process that writes nothing.

    Raises:
        InputError: if something given cannot be used, the loss is no longer finite, or
            another run is at work in the same folder.
    """
    started = time.monotonic()
    variant = scaling.get_variant(variant)
    training_recipe = training_recipe or recipe("small", variant)
    if training_recipe.fine_tuning and weights is None:
        raise InputError("Fine-tuning needs weights to start from; pass --weights.")
    if output:
        _refuse_existing(Path(output), overwrite or resume)  # before the data are read
    data = sources.load(data) if isinstance(data, str) else data
    # A set smaller than a batch would give no step at all.
    batch_size = min(training_recipe.batch_size, len(data.train))
    given = image_size or data.image_size
    job = _Job(
        variant,
        data,
        dataclasses.replace(training_recipe, batch_size=batch_size),
        image_size=given or variant.resolution,
        # V2 learns from smaller images than it is evaluated on.
        train_image_size=given or variant.train_resolution or variant.resolution,
        seed=seed,
        weights=None if weights is None else os.fspath(weights),
        run_config=run_config or RunConfig(),
    )
    output = Path(output or OUTPUT_ROOT / f"{data.name}-{variant.name.lower()}")
    distribution.leave_devices_to_jax()
    settings = job.settings()
    working_folder = contextlib.nullcontext()
    if distribution.is_first():
        print(job.recipe.describe(job.train_image_size), file=sys.stderr)
        working_folder = _working_folder(output, settings, overwrite, resume)
    with working_folder as partial:
        distribution.check_same(settings)
        finished = _finished(output, settings) if partial and not overwrite else None
        if finished := distribution.same_for_all(finished):
            return {**finished, "output": str(output)}
        if job.run_config.deterministic:
            _make_deterministic()
        keras.utils.set_random_seed(seed)
        held_out = job.held_out()
        model = _trained(job, held_out, partial)
        if partial is None:
            return settings
        with atomic_write(output, overwrite, partial / "output") as folder:
            folder.mkdir()
            report = _export(job, model, held_out, folder)
            shutil.copy(partial / "history.csv", folder)
            if (partial / "tensorboard").is_dir():
                shutil.copytree(partial / "tensorboard", folder / "tensorboard")
            report["seconds"] = round(time.monotonic() - started, 1)
            text = json.dumps(report, indent=1, ensure_ascii=False)
            # File names that are not text must not cost the run its report.
            content = (text + "\n").encode("utf-8", "backslashreplace")
            (folder / "report.json").write_bytes(content)
        write_report(output, report, job.data, held_out)  # the run is safe by now
    return {**report, "output": str(output)}


@dataclass(frozen=True)
class _Job:
    """What `train` was asked for, resolved."""

    variant: spec.VariantSpec
    data: Dataset
    recipe: Recipe
    image_size: int
    train_image_size: int
    seed: int
    weights: str | None
    run_config: RunConfig

    def settings(self) -> dict[str, Any]:
        """All that decides the result, as JSON takes it."""
        return {
            "variant": self.variant.name,
            "data": self.data.source,
            "train_images": len(self.data.train),
            "image_size": self.image_size,
            "train_image_size": self.train_image_size,
            "seed": self.seed,
            "weights": self.weights,
            "recipe": dataclasses.asdict(self.recipe),
            "precision": self.run_config.precision,
            "accumulation": self.run_config.accumulation,
            "class_weights": self.run_config.class_weights,
        }

    def network(self, size: int | None) -> keras.Model:
        """Builds the network for images of one size, or of any."""
        return variants.EfficientNet(
            self.variant,
            input_shape=(size, size, 3),
            classes=len(self.data.class_names),
            dropout_rate=self.recipe.dropout_rate,
            drop_connect_rate=self.recipe.drop_connect_rate,
        )

    def description(self) -> ModelDescription:
        """Returns what the model files say about themselves."""
        data, recipe = self.data, self.recipe
        learned = f"{len(data.train)} images of {data.name}"
        start = f", from weights {Path(self.weights).name}" if self.weights else ""
        return ModelDescription(
            self.variant.name,
            data.class_names,
            self.image_size,
            data.crop_fraction,
            summary=(
                f"EfficientNet-{self.variant.name} for {len(data.class_names)} classes, trained on "
                f"{learned} by the recipe {recipe.name}{start}."
            ),
            data=f"{learned} to learn from and {len(data.test)} held out.",
            recipe=recipe.describe(self.train_image_size),
        )

    def held_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns prepared held-out images and their class indices."""
        limit = max(1, HELD_OUT_BYTES // (3 * self.image_size**2))
        return pipeline.evaluation_arrays(
            self.data.test, self.image_size, self.data.crop_fraction, limit
        )


def _trained(
    job: _Job, held_out: tuple[np.ndarray, np.ndarray], partial: Path | None
) -> keras.Model:
    """Builds the network, trains it, and returns it as it is shipped: float32, of one size."""
    sizes = {stage.image_size for stage in job.recipe.plan(job.train_image_size)}
    with distribution.over_devices(job.run_config.devices), dtype_policy(job.run_config.precision):
        model = job.network(job.image_size if sizes == {job.image_size} else None)
        fresh_from = CLASSIFIER
        if job.weights is not None:
            fresh_from = _load(model, job.weights, bool(job.recipe.fine_tuning))
        history = fit(
            model,
            job.data,
            job.recipe,
            image_size=job.train_image_size,
            seed=job.seed,
            held_out=held_out,
            fresh_from=fresh_from,
            run_config=job.run_config,
            folder=partial,
        )
    if partial:
        _write_history(partial / "history.csv", history)
    shipped = job.network(job.image_size)
    shipped.set_weights(model.get_weights())
    return shipped


def _load(model: keras.Model, weights: str | os.PathLike, may_lack: bool) -> str:
    """Loads weights and returns the name of the first layer that got none."""
    report = load_weights(model, weights, strict=not may_lack)
    if report.unexpected or report.mismatched or report.differences:
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
    _refuse_existing(output, overwrite or resume)
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
        if run_checkpoints.newest_step(partial) < 0:
            about.write_text(json.dumps(settings, indent=1), encoding="utf-8")
        elif resume:
            _check_same(json.loads(about.read_text(encoding="utf-8")), settings)
        else:
            raise InputError(
                f"An unfinished run is in {str(partial)!r}; pass --resume to go on with it or "
                "--overwrite to start anew."
            )
        yield partial
        run_checkpoints.remove(partial)
    finally:
        if run_checkpoints.newest_step(partial) < 0:  # nothing to go on with
            shutil.rmtree(partial)
        lock.release()


def _refuse_existing(output: Path, may_exist: bool) -> None:
    if output.exists() and not may_exist:
        raise InputError(f"Output {str(output)!r} exists; pass --overwrite to replace it.")


def _finished(output: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the report of the run that left this output, if there is any output.

    Raises:
        InputError: if something else is there, or a run with other settings.
    """
    if not output.exists():
        return None
    try:
        report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise InputError(
            f"Output {str(output)!r} exists and no run wrote it; pass another --output."
        ) from None
    _check_same({name: report.get(name) for name in settings}, settings)
    return report


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = _flat(before), _flat(json.loads(json.dumps(now)))
    for path in {**old, **new}:
        if old.get(path) != new.get(path):
            raise InputError(
                f"The run in this folder has {path[-1]}={old.get(path)!r} and not "
                f"{new.get(path)!r}; resume it with the options it was begun with, or start anew "
                "with --overwrite."
            )


def _flat(settings: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    """Returns every single value by the names that lead to it."""
    if not isinstance(settings, dict):
        return {path: settings}
    flat = {}
    for name, value in settings.items():
        flat |= _flat(value, (*path, name))
    return flat


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Sets what networks that are built inside compute in."""
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


def _export(job: _Job, model: keras.Model, held_out, folder: Path) -> dict[str, Any]:
    """Writes and checks the model files, and returns the report."""
    print("Exporting and checking the model files ...", file=sys.stderr)
    data, description = job.data, job.description()
    calibration, _ = pipeline.evaluation_arrays(
        data.train, description.image_size, description.crop_fraction, CALIBRATION_IMAGES
    )
    (folder / "labels.txt").write_text(description.labels, encoding="utf-8")
    try:
        exported = deploy.export(
            model,
            folder,
            ("keras", "saved_model", "tflite"),
            ("float32", "int8"),
            deploy.Calibration(calibration, *held_out),
            description=description,
        )
    except deploy.ExportError as error:  # the other files are worth having
        if "model.keras" not in error.report["files"]:
            raise InputError(f"The model files cannot be written: {error}") from error
        print(f"Warning: {error}", file=sys.stderr)
        exported = error.report
    del exported["output"]  # where it is only until it is whole
    return {
        **exported,
        **job.settings(),
        "epochs": job.recipe.epochs,
        "parameters": model.count_params(),
        "test_images": len(held_out[0]),
        "skipped": [{"file": file, "reason": why} for file, why in data.skipped],
    }


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)
