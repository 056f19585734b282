import keras
import numpy as np
import pytest

from keras_efficientnet import InputError
from keras_efficientnet.training import WarmupExponentialDecay, learning_rates, recipe

# ImageNet at batch 4096: 312 steps an epoch, so a decay each 748.8 steps and 1560 of warm-up.
STEPS_PER_EPOCH = 312
PEAK = 0.256


@pytest.fixture(scope="module")
def paper_rates():
    return [row["learning_rate"] for row in learning_rates(recipe("paper"), STEPS_PER_EPOCH)]


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.0),
        (1, PEAK / 1560),
        (780, PEAK / 2),
        (1559, PEAK * 1559 / 1560),
        (1560, PEAK * 0.97**2),  # two decays (748.8, 1497.6) have passed unseen in warm-up
        (2246, PEAK * 0.97**2),
        (2247, PEAK * 0.97**3),  # the third at 2246.4
        (350 * STEPS_PER_EPOCH - 1, PEAK * 0.97**145),
    ],
)
def test_paper_schedule_on_both_sides_of_each_boundary(paper_rates, step, expected):
    assert paper_rates[step] == pytest.approx(expected, rel=2e-5)


def test_without_warmup_it_starts_at_the_peak():
    schedule = WarmupExponentialDecay(0.1, warmup_steps=0, decay_steps=10, decay_rate=0.5)
    rates = [float(schedule(step)) for step in (0, 9, 10, 19, 20)]
    np.testing.assert_allclose(rates, [0.1, 0.1, 0.05, 0.05, 0.025], rtol=1e-6)


def test_it_survives_saving():
    schedule = WarmupExponentialDecay(0.1, warmup_steps=7.5, decay_steps=10, decay_rate=0.5)
    config = keras.saving.serialize_keras_object(schedule)
    restored = keras.saving.deserialize_keras_object(config)
    assert [float(restored(step)) for step in range(40)] == [
        float(schedule(step)) for step in range(40)
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("peak", 0), ("warmup_steps", -1), ("decay_steps", 0), ("decay_rate", 1.5)],
)
def test_values_out_of_range_are_named(name, value):
    arguments = {"peak": 0.1, "warmup_steps": 1, "decay_steps": 1, "decay_rate": 0.9}
    with pytest.raises(InputError, match=f"{name}={value}"):
        WarmupExponentialDecay(**{**arguments, name: value})
