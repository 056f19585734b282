import keras
import numpy as np
import pytest

from keras_efficientnet import InputError
from keras_efficientnet.training import WeightAverage

IMAGES = np.random.default_rng(0).normal(3, 2, (48, 4)).astype("float32")
TARGETS = IMAGES[:, :3]


def network(**options):
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization(momentum=0.8)]
    )
    model.compile(keras.optimizers.SGD(0.05, **options), "mse", jit_compile=False)
    return model


class Recorded(keras.callbacks.Callback):
    """Keeps the raw weights after each batch."""

    def __init__(self):
        super().__init__()
        self.weights = []

    def on_train_batch_end(self, batch, logs=None):
        self.weights.append(self.model.get_weights())


def averaged(start, after_each_update, decay):
    average = start
    for count, weights in enumerate(after_each_update, 1):
        d = min(decay, (1 + count) / (10 + count))
        average = [d * a + (1 - d) * w for a, w in zip(average, weights, strict=True)]
    return average


def assert_same(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("decay", [0.3, 0.9999])  # with the warm-up's end in reach and far off
def test_it_ends_with_the_average_of_everything(decay):
    model, recorded = network(), Recorded()
    start = model.get_weights()
    callbacks = [recorded, WeightAverage(decay)]
    model.fit(IMAGES, TARGETS, batch_size=8, epochs=3, callbacks=callbacks, verbose=0)
    assert len(recorded.weights) == 18
    found, expected = model.get_weights(), averaged(start, recorded.weights, decay)
    names = [weight.name for weight in model.weights]
    assert {"moving_mean", "moving_variance"} < set(names)
    assert_same(found, expected)
    # The test would be worth little if raw and averaged weights were alike.
    raw = recorded.weights[-1][names.index("moving_mean")]
    assert np.abs(raw - found[names.index("moving_mean")]).max() > 0.05


def test_evaluation_uses_the_average_and_training_the_raw_weights():
    plain, watched = network(), network()
    watched.set_weights(plain.get_weights())
    recorded = Recorded()
    plain.fit(
        IMAGES, TARGETS, batch_size=8, epochs=2, callbacks=[recorded], verbose=0, shuffle=False
    )
    start = watched.get_weights()
    history = watched.fit(
        *(IMAGES, TARGETS),
        batch_size=8,
        epochs=2,
        validation_data=(IMAGES, TARGETS),
        callbacks=[WeightAverage(0.9)],
        verbose=0,
        shuffle=False,
    ).history
    for epoch in range(2):
        plain.set_weights(averaged(start, recorded.weights[: 6 * (epoch + 1)], 0.9))
        expected = plain.evaluate(IMAGES, TARGETS, verbose=0)
        assert history["val_loss"][epoch] == pytest.approx(expected, rel=1e-4)


def test_it_goes_on_in_a_second_fit():
    model, recorded, average = network(), Recorded(), WeightAverage(0.9)
    start = model.get_weights()
    for _ in range(2):
        model.fit(IMAGES, TARGETS, batch_size=8, callbacks=[recorded, average], verbose=0)
    assert_same(model.get_weights(), averaged(start, recorded.weights, 0.9))


def test_several_batches_to_one_update_count_once():
    model, recorded = network(gradient_accumulation_steps=3), Recorded()
    start = model.get_weights()
    callbacks = [recorded, WeightAverage(0.9, steps_per_update=3)]
    model.fit(IMAGES, TARGETS, batch_size=8, epochs=2, callbacks=callbacks, verbose=0)
    assert_same(model.get_weights(), averaged(start, recorded.weights[2::3], 0.9))


class Evaluated(keras.callbacks.Callback):
    """Evaluates by itself at the end of each epoch."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_end(self, epoch, logs=None):
        self.losses.append(self.model.evaluate(IMAGES, TARGETS, verbose=0))


@pytest.mark.parametrize("validated", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 3, 0, 2)])
def test_in_any_order_of_callbacks_the_averages_are_saved_and_restored(tmp_path, order, validated):
    model, evaluated, recorded = network(), Evaluated(), Recorded()
    start, path = model.get_weights(), tmp_path / "best.weights.h5"
    monitor = "val_loss" if validated else "loss"
    callbacks = [
        WeightAverage(0.9),
        keras.callbacks.ModelCheckpoint(
            path, monitor, save_best_only=True, save_weights_only=True, mode="max"
        ),
        keras.callbacks.EarlyStopping(
            monitor, patience=1, mode="max", restore_best_weights=True, start_from_epoch=0
        ),
        evaluated,
    ]
    model.fit(
        *(IMAGES, TARGETS),
        batch_size=8,
        epochs=5,
        validation_data=(IMAGES, TARGETS) if validated else None,
        callbacks=[recorded, *(callbacks[index] for index in order)],
        verbose=0,
    )
    # The loss falls, so that of the highest the first epoch's is the best.
    best = averaged(start, recorded.weights[:6], 0.9)
    assert len(evaluated.losses) == 2
    assert_same(model.get_weights(), best)
    assert model.evaluate(IMAGES, TARGETS, verbose=0) == pytest.approx(evaluated.losses[0])
    other = network()
    other.load_weights(path)
    assert_same(other.get_weights(), best)


def test_weights_that_are_given_after_a_fit_are_where_the_next_begins():
    model, recorded, average = network(), Recorded(), WeightAverage(0.9)
    model.fit(IMAGES, TARGETS, batch_size=8, callbacks=[average], verbose=0)
    given = [weight + 1 for weight in model.get_weights()]
    model.set_weights(given)
    model.fit(IMAGES[:8], TARGETS[:8], batch_size=8, callbacks=[recorded, average], verbose=0)
    raw = recorded.weights[0]
    share = min(0.9, 8 / 17)  # the seventh update
    expected = [share * a + (1 - share) * w for a, w in zip(given, raw, strict=True)]
    assert_same(model.get_weights(), expected)
    assert np.abs(raw[0] - given[0]).max() < 1


@pytest.mark.parametrize("decay", [-0.1, 1.0])
def test_decay_out_of_range_is_refused(decay):
    with pytest.raises(InputError, match=f"decay={decay} must be"):
        WeightAverage(decay)
