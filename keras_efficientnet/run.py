"""A whole run: from a data set to a folder of verified model files and a report of them."""

import contextlib
import csv
import dataclasses
import os
import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_efficientnet import deploy, scaling, spec, variants
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.deploy.benchmarking import processor
from keras_efficientnet.deploy.export_report import ExportReport
from keras_efficientnet.deploy.runtime import available_cores
from keras_efficientnet.description import ModelDescription
from keras_efficientnet.errors import InputError, RunError, reason, require_choice
from keras_efficientnet.files import atomic_write
from keras_efficientnet.fine_tuning import (
    calibrate,
    find_weights,
    load_pretrained,
)
from keras_efficientnet.native_logs import suppress_native_logs
from keras_efficientnet.report import (
    HeldOutResult,
    RunReport,
    RunSettings,
    render,
    summarize_scores,
)
from keras_efficientnet.run_folder import (
    IF_EXISTS,
    IfExists,
    RunFolder,
    open_run_folder,
    refuse_existing,
)
from keras_efficientnet.training import distribution
from keras_efficientnet.training.planning import describe_recipe, plan_stages
from keras_efficientnet.training.recipes import Recipe
from keras_efficientnet.training.recipes import recipe as get_recipe
from keras_efficientnet.training.trainer import RunConfig, dtype_policy, fit

OUTPUT_ROOT = Path("saved_models")
# The file that held-out images are evaluated with, where it could be made: it is the same on
# every backend, and fast.
EVALUATED_FILE = "model_float32.tflite"
EVALUATION_SECONDS = 30.0

Images = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """How `train` carries out a run: the machine, as in `RunConfig`, and the seed.

    Attributes:
        seed: of the initial weights, the order of the images and their augmentation.
    """

    seed: int = 0


def train(
    data: Dataset | str = "digits",
    variant: scaling.Variant = "B0",
    recipe: Recipe | None = None,
    *,
    weights: str | os.PathLike | None = None,
    image_size: int | None = None,
    output: str | os.PathLike | None = None,
    if_exists: IfExists = "fail",
    config: TrainConfig | None = None,
) -> RunReport | None:
    """Trains a classifier, exports it, verifies every exported file and writes a report.

    While it runs, checkpoints are kept in `OUTPUT.partial`: a run that was interrupted in any
    way continues from the newest when it is called again with the same arguments and
    `if_exists="resume"`. On several hosts (`training.on_hosts`) the first process alone
    reads and writes files.

    Args:
        data: a data set or its name, see `data.sources.load`.
        variant: network to train.
        recipe: how it is trained; if None, `training.recipe("finetune", variant)` with weights
            and `training.recipe("small", variant)` without.
        weights: file or name of the weights to start from, as the builders take it, or
            `"auto"`, see `fine_tuning.find_weights`. When fine-tuning, layers that it lacks start
            from random weights.
        image_size: side of the input in pixels; by default that of the data set where it has
            one, else the variant's.
        output: folder for the results; `saved_models/DATA-VARIANT` if None. It appears when
            everything is done, with all files.
        if_exists: `"fail"`: raise an error if the output or an unfinished run is there.
            `"overwrite"`: replace either. `"resume"`: continue an unfinished run, return the
            report of a finished one, and start where there is neither.
        config: seed, precision, devices and the like; `TrainConfig()` if None.

    Returns:
        What `report.json` contains; None in a process that writes nothing.

    Raises:
        InputError: if an argument cannot be used, or another run is at work in the same folder.
        RunError: if the loss becomes NaN, or memory, the disk or another host fails.
    """
    started = time.monotonic()
    require_choice("if_exists", if_exists, IF_EXISTS)
    variant, config = scaling.get_variant(variant), config or TrainConfig()
    if recipe and recipe.fine_tuning and weights is None:
        raise InputError("Fine-tuning needs weights to start from; pass --weights.")
    if output:  # refused before the data are read
        refuse_existing(output := Path(output).expanduser(), if_exists)
    data = sources.load(data) if isinstance(data, str) else data
    if weights is not None:
        variant, weights = find_weights(variant, weights)
    usual = "small" if weights is None else "finetune"
    recipe = recipe or get_recipe(usual, variant, len(data.train))
    run = _Run(variant, data, _of_full_batches(recipe, data), weights, image_size, config)
    output = Path(output or OUTPUT_ROOT / f"{data.name}-{variant.name.lower()}")
    distribution.leave_devices_to_jax()
    with _run_folder(output, run, if_exists) as folder:
        distribution.check_same(dataclasses.asdict(run.settings))
        finished = folder and folder.finished
        if distribution.same_for_all(finished is not None):
            return finished
        if config.deterministic:
            _make_deterministic()
        keras.utils.set_random_seed(config.seed)
        held_out = choosing = pipeline.split_arrays(data, "test", run.image_size)
        if data.chooser != "test":
            choosing = pipeline.split_arrays(data, data.chooser, run.image_size)
        model, history, temperature = _trained(run, choosing, folder and folder.path)
        if folder is None:
            return None
        with atomic_write(output, folder.overwrite, folder.path / "output") as written:
            written.mkdir()
            _write_history(written / "history.csv", history)
            if (folder.path / "tensorboard").is_dir():
                shutil.copytree(folder.path / "tensorboard", written / "tensorboard")
            export = _export(run, model, temperature, held_out, written)
            evaluation, images = _evaluation(run.data, held_out, export, written)
            report = RunReport(
                settings=run.settings,
                data=run.data.summary,
                parameters=model.count_params(),
                seconds=round(time.monotonic() - started, 1),
                machine=f"{processor()} with {available_cores()} cores",
                export=dataclasses.replace(export, directory=str(output)),
                evaluation=evaluation,
                chosen_on=data.chooser if recipe.keep_best else None,
            )
            report.write(written / "report.json")
            _write_page(written / "report.html", report, history, images)
        return report


@dataclass(frozen=True)
class _Run:
    """What `train` was asked for, with every default filled in."""

    variant: spec.VariantSpec
    data: Dataset
    recipe: Recipe
    weights: str | None
    given_image_size: int | None
    config: TrainConfig

    @property
    def image_size(self) -> int:
        """Side of the images that the finished network takes, in pixels."""
        return self.given_image_size or self.data.image_size or self.variant.resolution

    @property
    def train_image_size(self) -> int:
        """Side of the last stage's training images; V2's are smaller than those it then takes."""
        given = self.given_image_size or self.data.image_size
        return given or self.variant.train_resolution or self.variant.resolution

    @property
    def settings(self) -> RunSettings:
        """All that decides the result."""
        return RunSettings(
            variant=self.variant.name,
            data=self.data.source,
            train_images=len(self.data.train),
            image_size=self.image_size,
            train_image_size=self.train_image_size,
            seed=self.config.seed,
            weights=self.weights,
            recipe=dataclasses.asdict(self.recipe),
            precision=self.config.precision,
            accumulation=self.config.accumulation,
            class_weights=self.config.class_weights,
            minutes=self.config.minutes,
            class_names=self.data.class_names,
            listing=self.data.listing,
            pixel_range=self.data.pixel_range,
            holdout=self.data.holdout,
            group_by=self.data.group_by,
        )

    @property
    def description(self) -> ModelDescription:
        """What the model files say about themselves."""
        data, recipe = self.data, self.recipe
        training = f"{len(data.train)} images of {data.name}"
        start = f", from weights {Path(self.weights).name}" if self.weights else ""
        return ModelDescription(
            self.variant.name,
            data.class_names,
            self.image_size,
            data.crop_fraction,
            task=data.task.name,
            summary=(
                f"EfficientNet-{self.variant.name} for {len(data.class_names)} classes, trained on "
                f"{training} by the recipe {recipe.name}{start}."
            ),
            data=f"{training} for training and {len(data.test)} held out ({data.split}).",
            recipe=describe_recipe(recipe, self.train_image_size),
            listing=data.listing,
            pixel_range=data.pixel_range,
            holdout=data.holdout,
            group_by=data.group_by,
        )

    def network(self, size: int | None) -> keras.Model:
        """Builds the network for images of one size, or of any."""
        return variants.EfficientNet(
            self.variant,
            input_shape=(size, size, 3),
            classes=len(self.data.class_names),
            dropout_rate=self.recipe.dropout_rate,
            drop_connect_rate=self.recipe.drop_connect_rate,
        )


def _of_full_batches(recipe: Recipe, data: Dataset) -> Recipe:
    """Cuts batches to the training images, where these are fewer: they would give no step."""
    return dataclasses.replace(recipe, batch_size=min(recipe.batch_size, len(data.train)))


def _run_folder(
    output: Path, run: _Run, if_exists: IfExists
) -> contextlib.AbstractContextManager[RunFolder | None]:
    """Opens the run's folder in the first process; there is none in the others."""
    if not distribution.is_first():
        return contextlib.nullcontext()
    print(describe_recipe(run.recipe, run.train_image_size), file=sys.stderr)
    return open_run_folder(output, run.settings, if_exists)


def _trained(
    run: _Run, choosing: Images, folder: Path | None
) -> tuple[keras.Model, list[dict[str, Any]], float]:
    """Returns the trained network in float32, for images of one size.

    With it come the history, and the temperature that its logits were divided by.
    """
    sizes = {stage.image_size for stage in plan_stages(run.recipe, run.train_image_size)}
    with distribution.over_devices(run.config.devices), dtype_policy(run.config.precision):
        model = run.network(run.image_size if sizes == {run.image_size} else None)
        recipe = run.recipe
        if run.weights is not None:
            recipe = load_pretrained(model, run.weights, recipe)
        history = fit(
            model,
            run.data,
            recipe,
            image_size=run.train_image_size,
            seed=run.config.seed,
            held_out=choosing,
            run_config=run.config,
            folder=folder,
        )
    exported = run.network(run.image_size)
    exported.set_weights(model.get_weights())
    temperature = 1.0
    if recipe.fine_tuning and folder:
        temperature = calibrate(exported, *choosing)
    return exported, history, temperature


def _make_deterministic() -> None:
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()


def _export(
    run: _Run, model: keras.Model, temperature: float, held_out: Images, folder: Path
) -> ExportReport:
    """Writes and verifies the model files."""
    print("Exporting and verifying the model files ...", file=sys.stderr)
    calibration = deploy.CalibrationSet.from_dataset(
        run.data, run.image_size, run.data.crop_fraction, held_out=held_out
    )
    (folder / "labels.txt").write_text(run.description.labels, encoding="utf-8")
    try:
        return deploy.export(
            model,
            folder,
            ("keras", "saved_model", "tflite"),
            ("float32", "int8"),
            calibration,
            description=dataclasses.replace(run.description, temperature=temperature),
        )
    except deploy.ExportError as error:  # the other files are worth keeping
        if "model.keras" not in [file.name for file in error.report.files]:
            raise RunError(f"The model files cannot be written: {error}") from error
        print(f"Warning: {error}", file=sys.stderr)
        return error.report


def _evaluation(
    data: Dataset, held_out: Images, export: ExportReport, folder: Path
) -> tuple[HeldOutResult | None, np.ndarray]:
    """Evaluates one of the files; a failure costs the run nothing."""
    names = [file.name for file in export.files]
    file = export.file(EVALUATED_FILE if EVALUATED_FILE in names else names[0])
    try:
        return evaluate_file(folder / file.name, data, held_out, file.latency_ms)
    except Exception as error:
        print(f"{file.name} could not be evaluated: {reason(error)}.", file=sys.stderr)
        return None, held_out[0][:0]


def evaluate_file(
    path: Path, data: Dataset, held_out: Images, latency_ms: float | None = None
) -> tuple[HeldOutResult, np.ndarray]:
    """Classifies held-out images, as many as there is time for, spread evenly.

    Args:
        path: of the model file.
        data: whose images these are.
        held_out: prepared images of its held-out split, all or spread evenly over it, and their
            class indices.
        latency_ms: the file's time for one image; None to classify all of them.

    Returns:
        What it made of them, and the images of its mistakes.
    """
    images, labels = held_out
    in_time = 1000 * EVALUATION_SECONDS / latency_ms if latency_ms else len(images)
    chosen = pipeline.spread(len(images), max(1, min(len(images), int(in_time))))
    in_split = pipeline.spread(len(data.test), len(images))
    with suppress_native_logs():  # LiteRT logs about every file that it opens
        scores = deploy.Predictor(path).scores(images[chosen])
    result = summarize_scores(
        scores,
        labels[chosen],
        data,
        file=path.name,
        indices=[in_split[index] for index in chosen],
    )
    return result, images[[in_split.index(mistake.index) for mistake in result.mistakes]]


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(history[0]))
        writer.writeheader()
        writer.writerows(history)


def _write_page(path: Path, report: RunReport, history: list[dict[str, Any]], images) -> None:
    """Writes `report.html`; a failure costs the run nothing."""
    try:
        with atomic_write(path) as page:
            # A file name that is not text has characters that no file can hold.
            page.write_bytes(render(report, history, images).encode("utf-8", "replace"))
    except Exception as error:
        print(f"{path.name} could not be written: {reason(error)}.", file=sys.stderr)
