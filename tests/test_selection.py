import keras
import numpy as np
import pytest

from keras_efficientnet.training import WeightAverage
from keras_efficientnet.training.optimizer import LayerwiseAdamW
from keras_efficientnet.training.progress import StepCounter
from keras_efficientnet.training.selection import WINDOW, BestEpoch, StartGuard


def linear(rate=0.0):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(LayerwiseAdamW(rate), loss="mse", jit_compile=False)
    return model


def kernel(model):
    return float(model.layers[0].kernel[0, 0])


class Set(keras.callbacks.Callback):
    """Gives the model's one weight a value for each epoch, in place of what was learned."""

    def __init__(self, values):
        super().__init__()
        self.values = values

    def on_epoch_begin(self, epoch, logs=None):
        self.model.layers[0].kernel.assign([[self.values[epoch]]])


def fit(model, values, *callbacks):
    x, y = np.ones((4, 1)), np.full((4, 1), 5.0)
    model.fit(
        x, y, epochs=len(values), validation_data=(x, y), verbose=0,
        callbacks=[Set(values), *callbacks],
    )  # fmt: skip


def test_the_best_epoch_is_restored():
    model, best = linear(), BestEpoch()
    fit(model, [1.0, 6.0, 4.5, 9.0], best)
    assert kernel(model) == 9.0
    assert best.waited == 1
    best.restore(model)
    assert kernel(model) == 4.5


def test_accuracy_goes_before_loss_and_the_first_of_equals_stays():
    model, best = linear(), BestEpoch()
    for value, accuracy, loss in ((1, 0.5, 2.0), (2, 0.9, 3.0), (3, 0.9, 3.0), (4, 0.8, 0.1)):
        model.layers[0].kernel.assign([[value]])
        best.consider({"accuracy": accuracy, "loss": loss}, model)
    best.restore(model)
    assert kernel(model) == 2
    best.consider({"accuracy": 0.9, "loss": 2.9}, model)
    assert best.waited == 0


def test_patience_ends_training():
    model, best = linear(), BestEpoch(patience=2)
    x = np.ones((4, 1))
    values = Set([4.0, 3.0, 2.0, 5.0, 5.0])
    history = model.fit(
        x, 5 * x, epochs=5, validation_data=(x, 5 * x), verbose=0, callbacks=[values, best]
    )
    assert len(history.history["loss"]) == 3
    assert best.exhausted


def test_averaged_weights_are_kept_where_they_are_evaluated():
    model, best, average = linear(), BestEpoch(), WeightAverage(0.5)
    fit(model, [4.0, 4.0, 40.0], best, average)
    best.restore(model)
    # Of three updates, beginning from the initial weight, after the second.
    assert kernel(model) == pytest.approx(best.weights[0][0, 0])
    assert abs(kernel(model) - 5) == min(abs(best.weights[0][0, 0] - 5), abs(kernel(model) - 5))
    assert kernel(model) != 40.0


def test_a_start_that_goes_wrong_is_taken_back(capsys):
    """A rate that is far too high drives the weight away from the answer."""
    guarded, free = linear(3.0), linear(3.0)
    x = np.random.default_rng(0).choice([-1.0, 1.0], (400, 1))
    for model, callbacks in ((free, []), (guarded, None)):
        model.layers[0].kernel.assign([[2.0]])
        if callbacks is None:
            counter = StepCounter()
            callbacks = [counter, StartGuard(counter)]
        model.fit(x, 2.2 * x, batch_size=8, verbose=0, callbacks=callbacks)
    printed = capsys.readouterr().err
    assert "steps so far are taken back, and the learning rate is cut to 0.25" in printed
    assert float(guarded.optimizer.rate_scale) < 1
    assert abs(kernel(guarded) - 2.2) < abs(kernel(free) - 2.2)


def test_a_start_that_goes_well_is_left_alone(capsys):
    model, counter = linear(0.01), StepCounter()
    x = np.random.default_rng(0).choice([-1.0, 1.0], (400, 1))
    guard = StartGuard(counter, steps=4 * WINDOW)
    model.fit(x, 2.2 * x, batch_size=8, verbose=0, callbacks=[counter, guard])
    assert float(model.optimizer.rate_scale) == 1
    assert not capsys.readouterr().err
    assert not guard.start  # its memory is free after the watched steps
