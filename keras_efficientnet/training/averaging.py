"""The moving average of all weights, which is what is evaluated and exported."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_efficientnet.errors import require
from keras_efficientnet.training.progress import StepCounter


class WeightAverage(keras.callbacks.Callback):
    """Keeps an exponential moving average of a model's weights, as TensorFlow 1 did.

    After update `n`, counted from 1, every average `a` of a weight `w` becomes
    `a - (1 - d) * (a - w)` with `d = min(decay, (1 + n) / (10 + n))`, beginning from the
    initial weights. The moving statistics of batch normalization are averaged like the
    trained weights, as in the TPU code (`main.py`); Keras' own `use_ema` leaves them out.

    The averages are in the model from an epoch's last batch to the next epoch's beginning, and
    after training: `fit` reports their accuracy, and `ModelCheckpoint`, `EarlyStopping` and
    whatever else looks at the model at the end of an epoch saves and restores them, wherever it
    stands among the callbacks. Training itself uses the raw weights. Where Keras does not know the
    number of batches beforehand and nothing is validated, place this callback before the others.

    Args:
        decay: weight of the old average in the long run, in [0, 1).
        steps_per_update: batches per optimizer step: the optimizer's
            `gradient_accumulation_steps`.
        counter: of the run's batches; one of its own if None.

    Raises:
        InputError: if `decay` is out of range.
    """

    def __init__(
        self,
        decay: float = 0.9999,
        steps_per_update: int = 1,
        counter: StepCounter | None = None,
    ):
        super().__init__()
        require(0 <= decay < 1, "decay", decay, "at least 0 and below 1")
        self.decay, self.steps_per_update = decay, steps_per_update
        self.counter = counter or StepCounter()
        self.updates = self.counter.done // steps_per_update
        self.averages: list[Any] = []
        self._raw: list[Any] | None = None

    def set_model(self, model):
        """Creates the averages when the model is first known."""
        super().set_model(model)
        if not self.averages:
            self.averages = [
                keras.Variable(_copy(weight), trainable=False, dtype=weight.dtype, name="average")
                for weight in model.weights
            ]
            self._update = _compiled_update(self.averages, model.weights)

    def on_train_begin(self, logs=None):
        """Goes back to the raw weights where an earlier `fit` ended with the averages.

        Weights that were given to the model since then are where it begins anew.
        """
        if self._raw is not None and not self._holds_averages():
            for weight, average in zip(self.model.weights, self.averages, strict=True):
                average.assign(_copy(weight))
            self._raw = None
        self._swap_out()

    def on_epoch_begin(self, epoch, logs=None):
        """Trains on with the raw weights, and begins to count an epoch's batches."""
        self._swap_out()
        self.counter.on_epoch_begin(epoch)

    def on_train_batch_end(self, batch, logs=None):
        """Updates the averages, once where Keras ran several batches in one call."""
        self.counter.on_train_batch_end(batch)
        before, self.updates = self.updates, self.counter.done // self.steps_per_update
        if self.updates > before:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            sync(self.model)
            self._update(decay ** (self.updates - before))
        if batch + 1 >= (self.params.get("steps") or math.inf):
            self._swap_in()

    def on_test_begin(self, logs=None):
        """Evaluates with the averages."""
        self._swap_in()

    def on_epoch_end(self, epoch, logs=None):
        """Puts the averages into the model where nothing else has."""
        self._swap_in()

    def on_train_end(self, logs=None):
        """Leaves the averages in the model."""
        self._swap_in()

    @contextlib.contextmanager
    def raw_weights(self) -> Iterator[None]:
        """Puts the raw weights into the model inside a `with` block, as a checkpoint needs them."""
        swapped = self._raw is not None
        self._swap_out()
        yield
        if swapped:
            self._swap_in()

    def _swap_in(self):
        if self._raw is None:
            sync(self.model)
            weights = self.model.weights
            self._raw = [keras.ops.convert_to_numpy(weight) for weight in weights]
            for weight, average in zip(weights, self.averages, strict=True):
                weight.assign(_copy(average))

    def _swap_out(self):
        if self._raw is not None:
            for weight, value in zip(self.model.weights, self._raw, strict=True):
                weight.assign(value)
            self._raw = None

    def _holds_averages(self) -> bool:
        pairs = zip(self.model.weights, self.averages, strict=True)
        return all(np.array_equal(*map(keras.ops.convert_to_numpy, pair)) for pair in pairs)


def sync(model: keras.Model) -> None:
    """Brings a model's variables up to date: on JAX, `fit` keeps their values elsewhere."""
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def _copy(variable) -> Any:
    """Reads a variable. JAX's training step frees the arrays it is given."""
    return keras.ops.copy(variable) if keras.backend.backend() == "jax" else variable


def _compiled_update(averages: list, weights: list):
    """Returns the update of all averages as one call: hundreds of eager ones are slow."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.function(
            input_signature=[tf.TensorSpec([], tf.float32)], autograph=False, jit_compile=False
        )
        def assign(decay):
            for average, weight in zip(averages, weights, strict=True):
                difference = average.value - tf.convert_to_tensor(weight.value)
                average.value.assign_sub(difference * tf.cast(1 - decay, difference.dtype))

        return lambda decay: assign(tf.constant(decay, tf.float32))

    def blend(old, new, decay):
        pairs = zip(old, new, strict=True)
        return [a - (a - w) * keras.ops.cast(1 - decay, a.dtype) for a, w in pairs]

    if keras.backend.backend() == "jax":
        import jax

        blend = jax.jit(blend)

    def assign(decay):
        values = blend([a.value for a in averages], [w.value for w in weights], decay)
        for average, value in zip(averages, values, strict=True):
            average.assign(value)

    return assign
