"""Keeps what a run has learned: the best epoch's weights, and the start from good ones."""

import sys
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from keras_efficientnet.training.averaging import sync
from keras_efficientnet.training.progress import StepCounter

# The start is watched for so many steps, each compared by the mean of the last few losses.
WATCHED_STEPS = 60
WINDOW = 5
# Augmented batches differ by tens of percent; weights that are being destroyed by far more.
MAX_RISE, MARGIN = 2.0, 0.2
CUT = 0.25
MAX_CUTS = 3


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the evaluation with the best accuracy, and of equal ones the least loss.

    Beside `WeightAverage`, it keeps averaged weights, which are the evaluated ones.

    Args:
        patience: evaluations without a better one after which training stops; None for never.

    Attributes:
        logs: metrics of the best evaluation; None before the first.
        weights: the model's values then, in the order of `model.weights`.
        waited: evaluations since then.
    """

    def __init__(self, patience: int | None = None):
        super().__init__()
        self.patience = patience
        self.logs: dict[str, float] | None = None
        self.weights: list[np.ndarray] = []
        self.waited = 0

    @property
    def exhausted(self) -> bool:
        """Whether patience is at its end."""
        return self.patience is not None and self.waited >= self.patience

    def consider(self, logs: Mapping[str, float], model: keras.Model) -> None:
        """Compares an evaluation of a model with the best so far."""
        if self.logs is not None and _rank(logs) <= _rank(self.logs):
            self.waited += 1
            return
        self.logs, self.waited = dict(logs), 0
        self.weights = [keras.ops.convert_to_numpy(weight) for weight in model.weights]

    def on_test_end(self, logs=None):
        """Considers an evaluation."""
        sync(self.model)
        values = {name: float(value) for name, value in (logs or {}).items()}
        self.consider(values, self.model)

    def on_epoch_end(self, epoch, logs=None):
        """Stops when patience is at its end."""
        if self.exhausted:
            self.model.stop_training = True

    def restore(self, model: keras.Model) -> None:
        """Gives a model the best weights, where there was an evaluation."""
        for weight, value in zip(model.weights, self.weights, strict=bool(self.weights)):
            weight.assign(value)


def _rank(logs: Mapping[str, float]) -> tuple[float, float]:
    return logs.get("accuracy", 0.0), -logs["loss"]


class StartGuard(keras.callbacks.Callback):
    """Takes the first steps back, and cuts the learning rate, where they raise the loss far.

    The least loss of a run's first batches, before steps could change much, is compared with the
    mean of the latest ones.

    Args:
        counter: of the run's batches.
        steps: that are watched from the run's first.
    """

    def __init__(self, counter: StepCounter, steps: int = WATCHED_STEPS):
        super().__init__()
        self.counter, self.steps = counter, steps
        self.losses: list[float] = []
        self.start: list[Any] = []
        self.cuts = 0

    def on_train_begin(self, logs=None):
        """Remembers where the run begins."""
        if not self.counter.done:
            if not self.model.optimizer.built:
                self.model.optimizer.build(self.model.trainable_variables)
            sync(self.model)
            self.start = [keras.ops.convert_to_numpy(v) for v in self._variables()]

    def on_epoch_begin(self, epoch, logs=None):
        """Begins a new mean of losses, as Keras does."""
        self.sum, self.count = 0.0, 0

    def on_train_batch_end(self, batch, logs=None):
        """Judges the latest batches."""
        if not self.start or self.counter.done > self.steps:
            self.start = []  # the memory is free again
            return
        count = batch + 1
        total = float((logs or {})["loss"]) * count
        self.losses.append((total - self.sum) / (count - self.count))
        self.sum, self.count = total, count
        first, latest = min(self.losses[:WINDOW]), float(np.mean(self.losses[-WINDOW:]))
        risen = len(self.losses) >= 2 * WINDOW and latest > MAX_RISE * first + MARGIN
        if risen and self.cuts < MAX_CUTS:
            self._take_back(first, latest)

    def _take_back(self, before: float, after: float) -> None:
        sync(self.model)
        for variable, value in zip(self._variables(), self.start, strict=True):
            variable.assign(value)
        self.cuts += 1
        scale = CUT**self.cuts
        self.model.optimizer.rate_scale.assign(scale)
        del self.losses[WINDOW:]
        print(
            f"The loss rose from {before:.2f} to {after:.2f} by step {self.counter.done}: the "
            "steps so far are taken back, and the learning rate is cut to "
            f"{scale:g} of the recipe's.",
            file=sys.stderr,
        )

    def _variables(self) -> list[Any]:
        optimizer = self.model.optimizer
        kept = [v for v in optimizer.variables if v is not optimizer.iterations]
        return [*self.model.trainable_variables, *self.model.non_trainable_variables, *kept]
