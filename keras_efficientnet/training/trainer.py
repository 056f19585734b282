"""The training loop: stages of `model.fit` that can be interrupted and resumed at any batch."""

import contextlib
import importlib.util
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.data import pipeline
from keras_efficientnet.data.dataset import ArrayExamples, Dataset
from keras_efficientnet.data.images import require_pixels
from keras_efficientnet.errors import InputError, RunError, StoppedRun, reason, require
from keras_efficientnet.training import distribution, run_checkpoints
from keras_efficientnet.training.averaging import WeightAverage, sync
from keras_efficientnet.training.compiling import compile_model
from keras_efficientnet.training.freezing import fine_tune_from, settle_statistics
from keras_efficientnet.training.planning import Stage, plan_stages
from keras_efficientnet.training.probe import extract_features, fit_probe, set_classifier
from keras_efficientnet.training.progress import ProgressBar, StepCounter, StopOnNaN
from keras_efficientnet.training.recipes import MAX_EPOCHS, FineTuning, Recipe, with_epochs
from keras_efficientnet.training.selection import BestEpoch, StartGuard
from keras_efficientnet.training.stopping import StopRequest

VALIDATION_BATCH = 64  # images per device
TIMED_STEPS = 4
_RATE_SETTERS = (keras.callbacks.ReduceLROnPlateau, keras.callbacks.LearningRateScheduler)
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class RunConfig:
    """How a run uses the machine, apart from what it computes.

    Attributes:
        accumulation: equal parts that each optimizer step's images are processed in, one after
            the other; their gradients are averaged, so that a large batch fits into a small
            memory. Batch normalization sees one part at a time.
        steps_per_execution: batches that run between two calls from Python. Epochs are
            cut to whole multiples of it.
        checkpoint_seconds: time between two checkpoints.
        precision: dtype policy that the network computes in: `"float32"`,
            `"mixed_bfloat16"`, or `"mixed_float16"`, with an adaptive loss scale.
        deterministic: use only TensorFlow operations that give the same bits every time.
        class_weights: weight the loss so that every class counts equally.
        tensorboard: write event files into the run's folder.
        minutes: time for training when fine-tuning, from which the number of epochs follows: the
            time of a few steps is measured after the probe. None for the recipe's epochs.
        devices: of this host that share each batch; None for all GPUs, see
            `distribution.over_devices`. `fit` uses the devices that the model was built for.
        callbacks: further Keras callbacks for `model.fit`, called after the run's own.

    Raises:
        InputError: a value is out of its range, or TensorBoard is not installed.
    """

    accumulation: int = 1
    steps_per_execution: int = 1
    checkpoint_seconds: float = 300
    precision: str = "float32"
    deterministic: bool = False
    class_weights: bool = False
    tensorboard: bool = False
    minutes: float | None = None
    devices: int | None = None
    callbacks: tuple[keras.callbacks.Callback, ...] = ()

    def __post_init__(self):
        """Refuses values that cannot be run with."""
        for name, valid, accepted in (
            ("accumulation", self.accumulation >= 1, "at least 1"),
            ("steps_per_execution", self.steps_per_execution >= 1, "at least 1"),
            ("precision", self.precision in PRECISIONS, f"one of {', '.join(PRECISIONS)}"),
            ("checkpoint_seconds", self.checkpoint_seconds >= 0, "at least 0"),
            ("minutes", self.minutes is None or self.minutes > 0, "above 0"),
        ):
            require(valid, name, getattr(self, name), accepted)
        for callback in self.callbacks:
            if isinstance(callback, _RATE_SETTERS):
                raise InputError(
                    f"{type(callback).__name__} cannot set the learning rate, which follows the "
                    "recipe's schedule; leave it out, and change the recipe's schedule or patience "
                    "instead."
                )
        if self.tensorboard and not importlib.util.find_spec("tensorboard"):
            raise InputError("tensorboard=True needs TensorBoard; run: pip install tensorboard.")


def fit(
    model: keras.Model,
    data: Dataset,
    recipe: Recipe,
    *,
    image_size: int,
    seed: int = 0,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    run_config: RunConfig | None = None,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Trains a classifier by a recipe, stage by stage, with a progress bar.

    Afterwards the model has the averaged weights where the recipe averages, and those of the best
    epoch where it keeps that.

    Args:
        model: a classifier of the data set's classes; with free height and width where
            the recipe changes the image size.
        data: where the training images come from.
        recipe: how the model is trained; when fine-tuning, the model has pretrained weights, and
            `FineTuning.fresh_from` names the first layer that has none.
        image_size: side of the last stage's images in pixels.
        seed: of the order of the images and of their augmentation.
        held_out: prepared images, uint8 `[count, image_size, image_size, 3]`, and their labels;
            evaluated after each epoch.
        run_config: how the machine is used; `RunConfig()` if None.
        folder: where checkpoints are kept; the newest one there is resumed. None for none, and
            in all but the first process of several hosts.

    Returns:
        One record for each epoch: its number from 1, stage, image size, the metrics, and
        the learning rate at its end. When fine-tuning, the probe is epoch 0.

    Raises:
        InputError: if the data cannot fill a batch, or the folder's checkpoint is of another
            run.
        RunError: if the loss is no longer finite, memory runs out, images have vanished, or a
            checkpoint cannot be written. Its kind `StoppedRun`: with a folder, Ctrl-C or SIGTERM
            has ended the run after a step, and a checkpoint is there.
    """
    config = run_config or RunConfig()
    trainer = Trainer(model, data, recipe, image_size, seed, held_out, config, folder)
    try:
        # On several hosts, the process that started this one answers.
        with StopRequest(folder is not None and distribution.shard()[1] == 1) as trainer.stop:
            return trainer.train()
    except Exception as error:
        if (explained := _explained(error)) is None:
            raise
        raise explained from error
    finally:
        trainer.bar.close()


@contextlib.contextmanager
def dtype_policy(precision: str) -> Iterator[None]:
    """Sets the dtype policy of networks built inside the context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _explained(error: Exception) -> RunError | None:
    """Returns a sentence for an error that the machine or the data caused; None for others."""
    # Keras puts pages about the graph ahead of what the system says.
    lines = [line.strip() for line in str(error).splitlines() if "; " in line]
    why = lines[0].rpartition("}} ")[2] if lines else reason(error)
    # JAX has one type for all errors.
    if isinstance(error, tf.errors.ResourceExhaustedError) or "RESOURCE_EXHAUSTED" in str(error):
        return RunError(f"There is not enough memory ({why}); use smaller batches or images.")
    if isinstance(error, tf.errors.NotFoundError | tf.errors.PermissionDeniedError):
        return RunError(f"The training images are no longer all there: {why}.")
    return None


@dataclass
class Trainer:
    """One run: what `fit` was given, and how far it has come."""

    model: keras.Model
    data: Dataset
    recipe: Recipe
    image_size: int
    seed: int
    held_out: tuple[np.ndarray, np.ndarray] | None
    run_config: RunConfig
    folder: Path | None

    def __post_init__(self):
        """Checks that the data fill batches, and reads the newest checkpoint."""
        self.started = time.monotonic()
        recipe, accumulation = self.recipe, self.run_config.accumulation
        if self.run_config.minutes and not recipe.fine_tuning:
            raise InputError(
                f"minutes={self.run_config.minutes:g} plans fine-tuning; recipe {recipe.name!r} "
                "trains from scratch, give its epochs."
            )
        self.batch_size = recipe.batch_size // accumulation
        self.steps_per_epoch = self._steps_per_epoch()
        if recipe.fine_tuning and distribution.shard()[1] > 1:
            raise InputError(
                "Fine-tuning begins with a probe, which one host computes; train on a single host, "
                "or from scratch."
            )
        if self.held_out:
            require_pixels(self.held_out[0], "held_out images")
            self.held_out = distribution.share_of_held_out(*self.held_out)
        self.history: list[dict[str, Any]] = []
        self.epoch_metrics: dict[str, np.ndarray] = {}
        self.counter = StepCounter()
        self.stop = StopRequest(False)
        newest = run_checkpoints.load_newest(self.folder) if self.folder else None
        self.saved = distribution.from_first(newest)
        if self.saved:
            self.counter.done, self.history = self.saved[1]["step"], self.saved[1]["history"]
            if self.run_config.minutes:  # planned when the run began
                recipe = self.recipe = with_epochs(recipe, self.saved[1]["epochs"])
        self.average = None
        if recipe.ema_decay:
            self.average = WeightAverage(recipe.ema_decay, accumulation, self.counter)
        self.best = None
        if recipe.keep_best and self.held_out:
            self.best = BestEpoch(recipe.patience)
        self.bar = self._bar()

    def _bar(self) -> ProgressBar:
        images = self.recipe.epochs * self.steps_per_epoch * self.batch_size
        return ProgressBar(self.counter, self.recipe.epochs, images, self.batch_size)

    def _steps_per_epoch(self) -> int:
        """Returns the batches of an epoch.

        Raises:
            InputError: if there is none, or batches cannot be divided as asked.
        """
        images, accumulation = self.recipe.batch_size, self.run_config.accumulation
        if images % accumulation:
            raise InputError(
                f"batch_size={images} cannot be cut into accumulation={accumulation} equal parts."
            )
        devices = distribution.device_count()
        if self.batch_size % devices:
            raise InputError(
                f"Batches of {self.batch_size} images cannot be shared equally by {devices} "
                "devices; change --batch-size."
            )
        at_once = self.run_config.steps_per_execution
        steps = len(self.data.train) // images * accumulation // at_once * at_once
        if not steps:
            raise InputError(
                f"{len(self.data.train)} training images do not fill {at_once} batches of {images}."
            )
        return steps

    def train(self) -> list[dict[str, Any]]:
        """Trains all stages, or what an interrupted run has left of them; returns the history."""
        self.stage_end = 0
        if self.recipe.fine_tuning and not self.saved:
            self._probe()
            if self.run_config.minutes and self.recipe.epochs:
                self._plan(self.run_config.minutes)
        for stage in plan_stages(self.recipe, self.image_size):
            self.stage_end += stage.epochs
            self._prepare(stage)
            stopped = self.best and self.best.exhausted
            if self.counter.done <= self.stage_end * self.steps_per_epoch and not stopped:
                self._train_stage(stage)
        if self.average:
            self.average.on_train_end()  # also where nothing was left to train
        if self.best:
            self.best.restore(self.model)
        return self.history

    def _probe(self) -> None:
        """Makes the classifier of a linear probe the network's, and records it as epoch 0."""
        assert self.recipe.fine_tuning
        fresh_from = self.recipe.fine_tuning.fresh_from
        fine_tune_from(self.model, fresh_from, fresh_from)
        if fresh_from != FineTuning.fresh_from:
            batches = self._batches(Stage("probe", 0, self.image_size, self.recipe.augmentation))
            settle_statistics(self.model, (pixels for pixels, _ in batches))
        examples, crop, mirror = self.data.train, self.data.crop_fraction, self.data.mirror
        features, labels = extract_features(self.model, examples, self.image_size, crop, mirror)
        classes = len(self.data.class_names)
        probe = fit_probe(features, labels, classes, balanced=self.run_config.class_weights)
        set_classifier(self.model, probe)
        record = {"epoch": 0, "stage": "probe", "image_size": self.image_size}
        record |= self._measure(probe.logits(features[:, 0] if mirror else features), labels)
        if self.held_out:
            held_out = ArrayExamples(*self.held_out)
            features, labels = extract_features(self.model, held_out, self.image_size)
            measured = self._measure(probe.logits(features), labels)
            if self.best:
                self.best.consider(measured, self.model)
            record |= {f"val_{name}": value for name, value in measured.items()}
            shown = f"{measured['accuracy']:.1%} of {len(labels)} held-out images are right"
            print(f"Linear probe (strength {probe.strength:g}): {shown}.", file=sys.stderr)
        self.history.append({**record, "learning_rate": 0.0})

    def _plan(self, minutes: float) -> None:
        """Sets the epochs that fit into the time, from that of some steps and an evaluation."""
        (stage,) = plan_stages(self.recipe, self.image_size)
        self._prepare(stage)
        before = [keras.ops.convert_to_numpy(variable) for variable in self.model.variables]
        at_once = self.run_config.steps_per_execution
        tracing = self._seconds_of(stage, at_once)
        step = self._seconds_of(stage, TIMED_STEPS * at_once) / (TIMED_STEPS * at_once)
        epoch = self.steps_per_epoch * step
        if self.held_out:
            begin = time.monotonic()
            self.model.evaluate(*self.held_out, batch_size=VALIDATION_BATCH, verbose=0)
            epoch += time.monotonic() - begin
        for variable, value in zip(self.model.variables, before, strict=True):
            variable.assign(value)
        left = 60 * minutes - (time.monotonic() - self.started) - tracing
        epochs = min(max(0, int(left / epoch)), MAX_EPOCHS)
        fits = f"{epochs} epochs of about {epoch:.0f} s fit" if epochs else "No epoch fits"
        print(
            f"{fits} into {minutes:g} minutes{'' if epochs else ': the probe is kept'}.",
            file=sys.stderr,
        )
        self.recipe = with_epochs(self.recipe, epochs)
        self.bar = self._bar()

    def _seconds_of(self, stage: Stage, steps: int) -> float:
        begin = time.monotonic()
        self.model.fit(self._batches(stage), steps_per_epoch=steps, shuffle=False, verbose=0)
        return time.monotonic() - begin

    def _measure(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Returns the loss and the metrics that `model.evaluate` gives for these logits."""
        loss = self.data.task.loss(self.recipe.label_smoothing, from_logits=True)
        values = {metric.__name__: metric(labels, logits) for metric in self.data.task.metrics()}
        # By example: over several devices, Keras gives each its part of the mean.
        values = {"loss": loss.call(labels, logits), **values}
        return {name: float(keras.ops.mean(value)) for name, value in values.items()}

    def _prepare(self, stage: Stage) -> None:
        """Prepares the model for a stage."""
        if stage.dropout_rate is not None:
            for layer in self.model.layers:
                if layer.name == "top_dropout":
                    layer.rate = stage.dropout_rate
        if self.recipe.fine_tuning:
            fine_tune_from(self.model, stage.unfreeze_from, self.recipe.fine_tuning.fresh_from)
        if stage.peak_learning_rate is not None:
            compile_model(
                self.model,
                self.recipe,
                self.steps_per_epoch // self.run_config.accumulation,
                stage,
                task=self.data.task,
                accumulation=self.run_config.accumulation,
                steps_per_execution=self.run_config.steps_per_execution,
            )
            self.model.optimizer.build(self.model.trainable_variables)
        # Dropout's rate is a constant of the traced step.
        self.model.train_function = self.model.test_function = None

    def _train_stage(self, stage: Stage) -> None:
        if self.saved:
            self._restore()
        epoch, done = divmod(self.counter.done, self.steps_per_epoch)
        if done:  # the rest of an epoch that was interrupted
            self._fit(stage, epoch, epoch + 1, self.steps_per_epoch - done)
            epoch += 1
        if epoch < self.stage_end:
            self._fit(stage, epoch, self.stage_end, self.steps_per_epoch)

    def _batches(self, stage: Stage) -> Any:
        return pipeline.training_batches(
            self.data,
            stage.image_size,
            self.batch_size // distribution.shard()[1],
            self.seed,
            start_step=self.counter.done,
            shard=distribution.shard(),
            augmentation=stage.augmentation,
        )

    def _fit(self, stage: Stage, epoch: int, end: int, steps: int) -> None:
        self.model.fit(
            self._batches(stage),
            initial_epoch=epoch,
            epochs=end,
            steps_per_epoch=steps,
            validation_data=self.held_out,
            validation_batch_size=VALIDATION_BATCH * distribution.devices_here(),
            class_weight=self.data.class_weights() if self.run_config.class_weights else None,
            shuffle=False,  # the batches come shuffled
            verbose=0,
            callbacks=self._callbacks(stage),
        )

    def _callbacks(self, stage: Stage) -> list[keras.callbacks.Callback]:
        # The counter is first: the others read it.
        callbacks: list[keras.callbacks.Callback] = [self.counter, StopOnNaN(self.counter)]
        if distribution.is_first():
            callbacks.append(self.bar)
        if self.recipe.fine_tuning:
            callbacks.append(StartGuard(self.counter))
        if self.best:
            callbacks.append(self.best)
        if self.average:
            callbacks.append(self.average)
        callbacks.append(_Record(self, stage))
        if self.folder and self.run_config.tensorboard:
            callbacks.append(keras.callbacks.TensorBoard(str(self.folder / "tensorboard")))
        return [*callbacks, *self.run_config.callbacks]

    def _variables(self) -> dict[str, Any]:
        """Returns all variables that training changes, by name, except the metrics'."""
        metrics = {id(variable) for variable in self.model.metrics_variables}
        return run_checkpoints.variables_of(
            model=[v for v in self.model.variables if id(v) not in metrics],
            optimizer=self.model.optimizer.variables,
            average=self.average.averages if self.average else [],
        )

    def _metrics(self) -> dict[str, Any]:
        """Returns the metrics' sums over the epoch so far."""
        return run_checkpoints.variables_of(metrics=self.model.metrics_variables)

    def save(self) -> None:
        """Writes a checkpoint."""
        assert self.folder
        sync(self.model)
        with self.average.raw_weights() if self.average else contextlib.nullcontext():
            variables = {**self._variables(), **self._metrics()}
            tensors = {name: keras.ops.convert_to_numpy(value) for name, value in variables.items()}
        state: dict[str, Any] = {
            "step": self.counter.done,
            "history": self.history,
            "epochs": self.recipe.epochs,
        }
        if self.best:
            tensors |= run_checkpoints.variables_of(best=self.best.weights)
            state |= {"best": self.best.logs, "waited": self.best.waited}
        run_checkpoints.save(self.folder, self.counter.done, tensors, state)

    def stop_if_asked(self) -> None:
        """Ends the run where a signal has asked for it, with a checkpoint of where it is."""
        if self.stop.signal is None:
            return
        self.save()
        raise StoppedRun(
            f"Stopped after step {self.counter.done:,} of "
            f"{self.recipe.epochs * self.steps_per_epoch:,}, and a checkpoint is written; the same "
            "command with --resume goes on from there.",
            self.stop.signal,
        )

    def _restore(self) -> None:
        assert self.saved
        (tensors, state), self.saved = self.saved, None
        if self.best:
            names = [name for name in sorted(tensors) if name.startswith("best/")]
            self.best.weights = [tensors.pop(name) for name in names]
            self.best.logs, self.best.waited = state["best"], state["waited"]
        if self.average:
            self.average.set_model(self.model)
        # Metrics have no variables before their first batch.
        size = self.model.input_shape[1] or self.model.input_shape[2] or 32
        count = distribution.devices_here()
        images = np.zeros((count, size, size, self.model.input_shape[-1]), np.uint8)
        labels = np.zeros((count, *self.model.output_shape[1:]), np.float32)
        self.model.test_on_batch(images, labels)
        self.model.test_function = None  # later batches have other shapes
        run_checkpoints.restore({**self._variables(), **self._metrics()}, tensors)
        self.epoch_metrics = {name: tensors[name] for name in self._metrics()}

    def restore_metrics(self) -> None:
        """Restores the metrics' sums of an interrupted epoch, which `model.fit` has reset."""
        for name, variable in self._metrics().items():
            if name in self.epoch_metrics:
                variable.assign(self.epoch_metrics[name])
        self.epoch_metrics = {}


class _Record(keras.callbacks.Callback):
    """Keeps the history, and saves the run every so many seconds and at the end of a stage."""

    def __init__(self, trainer: Trainer, stage: Stage):
        super().__init__()
        self.trainer, self.stage = trainer, stage
        self.last_save = time.monotonic()

    def on_epoch_begin(self, epoch, logs=None):
        if self.trainer.counter.done % self.trainer.steps_per_epoch:
            self.trainer.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        # The end of an epoch is saved when its record is complete.
        if self.trainer.counter.done % self.trainer.steps_per_epoch:
            self._save_if_due(logs)
            self.trainer.stop_if_asked()

    def on_epoch_end(self, epoch, logs=None):
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.trainer.history.append(
            {
                "epoch": epoch + 1,
                "stage": self.stage.name,
                "image_size": self.stage.image_size,
                **{name: float(value) for name, value in (logs or {}).items()},
                "learning_rate": float(rate),
            }
        )
        self._save_if_due(logs, always=epoch + 1 == self.trainer.stage_end)
        self.trainer.stop_if_asked()

    def _save_if_due(self, logs, always=False):
        if not self.trainer.folder:
            return
        waited = time.monotonic() - self.last_save
        if always or waited >= self.trainer.run_config.checkpoint_seconds:
            if math.isfinite((logs or {}).get("loss", 0)):  # or the run is about to end
                self.trainer.save()
            self.last_save = time.monotonic()
