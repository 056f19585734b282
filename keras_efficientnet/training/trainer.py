"""The training loop: stages of `model.fit` that can be interrupted and resumed anywhere."""

import importlib.util
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_efficientnet.data import pipeline
from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.training import distribution, run_checkpoints
from keras_efficientnet.training.averaging import WeightAverage, sync
from keras_efficientnet.training.freezing import CLASSIFIER, learn_from
from keras_efficientnet.training.progress import ProgressBar, StopOnNaN
from keras_efficientnet.training.recipes import Recipe, Stage

VALIDATION_BATCH = 64  # images to a device
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class RunConfig:
    """How a run uses the machine, apart from what it computes.

    Attributes:
        accumulation: parts that each batch is cut into; their gradients are averaged, so
            that a large batch fits into a small memory. Batch normalization sees a part.
        steps_per_execution: batches that run between two calls from Python. Epochs are
            cut to whole multiples of it.
        checkpoint_seconds: time between two checkpoints.
        precision: dtype policy that the network computes in: `"float32"`,
            `"mixed_bfloat16"`, or `"mixed_float16"`, with a loss scale that adapts itself.
        deterministic: use TensorFlow operations only that give the same bits every time.
        class_weights: weigh the loss so that every class counts the same.
        tensorboard: write event files into the run's folder.
        devices: of this host that share each batch; None for all GPUs, see
            `distribution.over_devices`. `fit` takes the model and devices that it is given.
    """

    accumulation: int = 1
    steps_per_execution: int = 1
    checkpoint_seconds: float = 300
    precision: str = "float32"
    deterministic: bool = False
    class_weights: bool = False
    tensorboard: bool = False
    devices: int | None = None

    def __post_init__(self):
        """Refuses values that cannot be run with."""
        for name in ("accumulation", "steps_per_execution"):
            if getattr(self, name) < 1:
                raise InputError(f"{name}={getattr(self, name)!r} must be at least 1.")
        if self.precision not in PRECISIONS:
            raise InputError(
                f"precision={self.precision!r} must be one of {', '.join(PRECISIONS)}."
            )
        if self.tensorboard and not importlib.util.find_spec("tensorboard"):
            raise InputError("tensorboard=True needs TensorBoard; run: pip install tensorboard.")
        if not self.checkpoint_seconds >= 0:
            raise InputError(f"checkpoint_seconds={self.checkpoint_seconds!r} must be at least 0.")


def fit(
    model: keras.Model,
    data: Dataset,
    recipe: Recipe,
    *,
    image_size: int,
    seed: int = 0,
    held_out: tuple[np.ndarray, np.ndarray] | None = None,
    fresh_from: str = CLASSIFIER,
    run_config: RunConfig | None = None,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Trains a classifier by a recipe, stage by stage, with a progress bar.

    At the end the model holds the averaged weights where the recipe averages.

    Args:
        model: a classifier of the data set's classes; with free height and width where
            the recipe changes the image size.
        data: where the training images come from.
        recipe: how.
        image_size: side of the last stage's images in pixels.
        seed: of the order of the images and of their augmentation.
        held_out: prepared images and class indices, evaluated after each epoch.
        fresh_from: first layer without pretrained weights, for fine-tuning.
        run_config: how the machine is used; `RunConfig()` if None.
        folder: where checkpoints are kept; what is there is resumed. None for none, and in
            all but the first process of several hosts.

    Returns:
        One record for each epoch: its number from 1, stage, image size, the metrics, and
        the learning rate at its end.

    Raises:
        InputError: if the data cannot fill a batch, the loss is no longer finite, or the
            folder's checkpoint is of another run.
    """
    run = _Run(
        model,
        data,
        recipe,
        image_size,
        seed,
        held_out,
        fresh_from,
        run_config or RunConfig(),
        folder,
    )
    try:
        for stage in recipe.plan(image_size):
            run.train(stage)
        run.finish()
    except tf.errors.OpError as error:
        raise _explained(error) from error
    finally:
        run.bar.close()
    return run.history


def _explained(error: tf.errors.OpError) -> Exception:
    """Says in a sentence what the machine or the data did to a run; other errors stay."""
    # Keras puts pages about the graph ahead of what the system says.
    lines = [line.strip() for line in str(error).splitlines() if "; " in line]
    why = lines[0].rpartition("}} ")[2] if lines else reason(error)
    if isinstance(error, tf.errors.ResourceExhaustedError):
        return InputError(f"There is not enough memory ({why}); use smaller batches or images.")
    if isinstance(error, tf.errors.NotFoundError | tf.errors.PermissionDeniedError):
        return InputError(f"The training images are no longer all there: {why}.")
    return error


class _Run:
    """One run: what `fit` was given, and how far it has come."""

    def __init__(
        self, model, data, recipe, image_size, seed, held_out, fresh_from, run_config, folder
    ):
        self.model, self.data, self.recipe = model, data, recipe
        self.seed, self.fresh_from = seed, fresh_from
        self.held_out = held_out and distribution.share_of_held_out(*held_out)
        self.run_config, self.folder = run_config, folder
        accumulation = run_config.accumulation
        self.batch_size, rest = divmod(recipe.batch_size, accumulation)
        if rest:
            raise InputError(
                f"batch_size={recipe.batch_size} cannot be cut into accumulation={accumulation} "
                "equal parts."
            )
        devices = distribution.device_count()
        if self.batch_size % devices:
            raise InputError(
                f"Batches of {self.batch_size} images cannot be shared equally by {devices} "
                "devices; change --batch-size."
            )
        steps = len(data.train) // recipe.batch_size * accumulation
        self.steps_per_epoch = steps // run_config.steps_per_execution
        self.steps_per_epoch *= run_config.steps_per_execution
        if not self.steps_per_epoch:
            raise InputError(
                f"{len(data.train)} training images do not fill "
                f"{run_config.steps_per_execution} batches of {recipe.batch_size}."
            )
        self.history: list[dict[str, Any]] = []
        self.sums: dict[str, np.ndarray] = {}
        self.steps_done = self.epochs_entered = 0
        newest = run_checkpoints.load_newest(folder) if folder else None
        self.saved = distribution.from_first(newest)
        if self.saved:
            self.steps_done, self.history = self.saved[1]["step"], self.saved[1]["history"]
        self.average = WeightAverage(recipe.ema_decay, accumulation) if recipe.ema_decay else None
        images_per_epoch = self.steps_per_epoch * self.batch_size
        self.bar = ProgressBar(
            recipe.epochs,
            recipe.epochs * images_per_epoch,
            self.steps_done * self.batch_size,
            self.batch_size,
        )

    def train(self, stage: Stage) -> None:
        """Goes through one stage, or the part of it that is still to be done."""
        first, self.epochs_entered = self.epochs_entered, self.epochs_entered + stage.epochs
        self._enter(stage)
        last_step = self.epochs_entered * self.steps_per_epoch
        if self.steps_done > last_step:
            return
        if self.saved:
            self._restore()
        done_here = self.steps_done - first * self.steps_per_epoch
        if begun := done_here % self.steps_per_epoch:
            epoch = self.steps_done // self.steps_per_epoch
            self._fit(stage, epoch, epoch + 1, self.steps_per_epoch - begun)
        epoch = self.steps_done // self.steps_per_epoch
        if epoch < self.epochs_entered:
            self._fit(stage, epoch, self.epochs_entered, self.steps_per_epoch)

    def finish(self) -> None:
        """Leaves the averages in the model, also where nothing was left to train."""
        if self.average:
            self.average.on_train_end()

    def _enter(self, stage: Stage) -> None:
        """Makes the model what the stage needs it to be."""
        model, recipe = self.model, self.recipe
        if stage.dropout_rate is not None:
            for layer in model.layers:
                if layer.name == "top_dropout":
                    layer.rate = stage.dropout_rate
        if recipe.fine_tuning:
            learn_from(model, stage.unfreeze_from, self.fresh_from)
        if stage.base_learning_rate is not None:
            recipe.compile(
                model,
                self.steps_per_epoch // self.run_config.accumulation,
                stage,
                accumulation=self.run_config.accumulation,
                steps_per_execution=self.run_config.steps_per_execution,
            )
            model.optimizer.build(model.trainable_variables)
        # Dropout's rate is a constant of the traced step.
        model.train_function = model.test_function = None

    def _fit(self, stage: Stage, epoch: int, end: int, steps: int) -> None:
        batches = pipeline.training_batches(
            self.data,
            stage.image_size,
            self.batch_size // distribution.shard()[1],
            self.seed,
            start_step=self.steps_done,
            shard=distribution.shard(),
            augmentation=stage.augmentation,
        )
        callbacks: list[keras.callbacks.Callback] = [StopOnNaN()]
        if distribution.is_first():
            callbacks.append(self.bar)
        if self.average:
            callbacks.append(self.average)
        callbacks.append(_Record(self, stage))
        if self.folder:
            callbacks.append(_Checkpoint(self))
            if self.run_config.tensorboard:
                callbacks.append(keras.callbacks.TensorBoard(str(self.folder / "tensorboard")))
        weights = self.data.class_weights() if self.run_config.class_weights else None
        self.model.fit(
            batches,
            initial_epoch=epoch,
            epochs=end,
            steps_per_epoch=steps,
            validation_data=self.held_out,
            validation_batch_size=VALIDATION_BATCH * distribution.devices_here(),
            class_weight=weights,
            shuffle=False,  # the batches come shuffled
            verbose=0,
            callbacks=callbacks,
        )

    def variables(self) -> dict[str, Any]:
        """All that changes while a run goes, by name; the metrics of the epoch apart."""
        metrics = {id(variable) for variable in self.model.metrics_variables}
        return run_checkpoints.variables_of(
            model=[v for v in self.model.variables if id(v) not in metrics],
            optimizer=self.model.optimizer.variables,
            average=self.average.averages if self.average else [],
        )

    def metrics(self) -> dict[str, Any]:
        """The metrics' sums over the epoch so far."""
        return run_checkpoints.variables_of(metrics=self.model.metrics_variables)

    def save(self) -> None:
        """Writes a checkpoint."""
        assert self.folder
        sync(self.model)
        variables = {**self.variables(), **self.metrics()}
        run_checkpoints.save(
            self.folder,
            self.steps_done,
            {name: keras.ops.convert_to_numpy(value) for name, value in variables.items()},
            {
                "step": self.steps_done,
                "history": self.history,
                "averaged": self.average.steps if self.average else 0,
            },
        )

    def _restore(self) -> None:
        assert self.saved
        tensors, state = self.saved
        self.saved = None
        if self.average:
            self.average.set_model(self.model)
            self.average.steps = state["averaged"]
        # Metrics have no variables before their first batch.
        size = self.model.input_shape[1] or self.model.input_shape[2] or 32
        count = distribution.devices_here()
        blank = np.zeros((count, size, size, self.model.input_shape[-1]), np.uint8)
        self.model.test_on_batch(blank, np.zeros(count, np.int64))
        self.model.test_function = None  # traced for a batch like no other
        run_checkpoints.restore({**self.variables(), **self.metrics()}, tensors)
        self.sums = {name: tensors[name] for name in self.metrics()}

    def restore_metrics(self) -> None:
        """Gives an epoch that was broken off the sums it had: `fit` begins with none."""
        for name, variable in self.metrics().items():
            if name in self.sums:
                variable.assign(self.sums[name])
        self.sums = {}


class _Record(keras.callbacks.Callback):
    """Counts steps and keeps the history."""

    def __init__(self, run: _Run, stage: Stage):
        super().__init__()
        self.run, self.stage = run, stage

    def on_epoch_begin(self, epoch, logs=None):
        self.seen = 0
        if self.run.steps_done % self.run.steps_per_epoch:
            self.run.restore_metrics()

    def on_train_batch_end(self, batch, logs=None):
        self.run.steps_done += batch + 1 - self.seen
        self.seen = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        self.run.history.append(
            {
                "epoch": epoch + 1,
                "stage": self.stage.name,
                "image_size": self.stage.image_size,
                **{name: float(value) for name, value in (logs or {}).items()},
                "learning_rate": float(rate),
            }
        )


class _Checkpoint(keras.callbacks.Callback):
    """Saves the run every so many seconds, and at the end of a stage."""

    def __init__(self, run: _Run):
        super().__init__()
        self.run = run
        self.last = time.monotonic()

    def on_train_batch_end(self, batch, logs=None):
        # The end of an epoch is saved when its record is complete.
        if self.run.steps_done % self.run.steps_per_epoch:
            self._save_if(False, logs)

    def on_epoch_end(self, epoch, logs=None):
        self._save_if(epoch + 1 == self.run.epochs_entered, logs)

    def _save_if(self, at_all_events, logs):
        waited = time.monotonic() - self.last
        if at_all_events or waited >= self.run.run_config.checkpoint_seconds:
            if math.isfinite((logs or {}).get("loss", 0)):  # or the run is about to end
                self.run.save()
            self.last = time.monotonic()
