import keras
import numpy as np
import pytest

from keras_efficientnet import InputError
from keras_efficientnet.training import RMSprop


def written_out(start, gradients, initial_mean_square=0.0, l2=0.0, rate=0.1):
    """RMSprop as the paper's code ran it, in NumPy: the weight after each gradient."""
    weight = np.array(start, np.float64)
    mean_square = np.full_like(weight, initial_mean_square)
    velocity = np.zeros_like(weight)
    weights = []
    for gradient in gradients:
        gradient = gradient + l2 * weight
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        velocity = 0.9 * velocity + rate * gradient / np.sqrt(mean_square + 0.001)
        weight = weight - velocity
        weights.append(weight)
    return weights


GRADIENTS = [np.array([0.5, -0.25]) * (step + 1) for step in range(6)]


@pytest.mark.parametrize("initial_mean_square", [0.0, 1.0])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_it_follows_the_written_out_rule(initial_mean_square, l2):
    variable = keras.Variable(np.array([1.0, -2.0], np.float32), name="kernel")
    optimizer = RMSprop(0.1, initial_mean_square=initial_mean_square, l2=l2)
    expected = written_out([1.0, -2.0], GRADIENTS, initial_mean_square, l2)
    for gradient, value in zip(GRADIENTS, expected, strict=True):
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)


def test_without_its_two_additions_it_is_keras_own():
    ours, theirs = (keras.Variable(np.array([1.0, -2.0], np.float32)) for _ in range(2))
    optimizers = (
        RMSprop(0.1),
        keras.optimizers.RMSprop(0.1, rho=0.9, momentum=0.9, epsilon=1e-3),
    )
    for gradient in GRADIENTS:
        for optimizer, variable in zip(optimizers, (ours, theirs), strict=True):
            optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
    np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_l2_leaves_batch_normalization_alone():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3), keras.layers.BatchNormalization()]
    )
    optimizer = RMSprop(0.1, l2=0.5)
    variables = model.trainable_variables
    before = [variable.numpy() for variable in variables]
    optimizer.apply([keras.ops.zeros(variable.shape) for variable in variables], variables)
    moved = {
        variable.name: not np.array_equal(variable.numpy(), value)
        for variable, value in zip(variables, before, strict=True)
    }
    # A bias starts at zero, where decay has nothing to take.
    assert moved == {"kernel": True, "bias": False, "gamma": False, "beta": False}
    kernel, gradient = before[0], 0.5 * before[0]
    expected = kernel - 0.1 * gradient / np.sqrt(0.1 * gradient**2 + 0.001)
    np.testing.assert_allclose(variables[0].numpy(), expected, rtol=1e-5)


def test_l2_is_the_gradient_of_the_papers_loss_term():
    start = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    images = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")

    def trained(optimizer, regularizer):
        dense = keras.layers.Dense(3, use_bias=False, kernel_regularizer=regularizer)
        model = keras.Sequential([keras.Input((4,)), dense])
        dense.kernel.assign(start)
        model.compile(optimizer, "mse", jit_compile=False)
        model.fit(images, images[:, :3], batch_size=8, epochs=3, verbose=0)
        return dense.kernel.numpy()

    # Keras' L2(x) adds x * sum(w ** 2), twice the half of the paper's.
    as_loss = trained(RMSprop(0.01), keras.regularizers.L2(0.2 / 2))
    np.testing.assert_allclose(trained(RMSprop(0.01, l2=0.2), None), as_loss, atol=1e-6)


def test_a_saved_one_goes_on_as_it_would_have(tmp_path):
    images = np.random.default_rng(1).normal(size=(8, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(RMSprop(0.01, initial_mean_square=1.0, l2=0.1), "mse", jit_compile=False)
    model.fit(images, images[:, :3], verbose=0)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert isinstance(restored.optimizer, RMSprop)
    for either in (model, restored):
        either.fit(images, images[:, :3], verbose=0, shuffle=False)
    for one, other in zip(model.get_weights(), restored.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("option", ["initial_mean_square", "l2"])
def test_negative_values_are_refused(option):
    with pytest.raises(InputError, match=f"{option}=-1 must be at least 0"):
        RMSprop(**{option: -1})


def test_a_schedule_counts_optimizer_steps():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([0, 1], [1.0, 0.1, 0.01])
    optimizer = RMSprop(schedule, gradient_accumulation_steps=3)
    variable = keras.Variable([1.0])
    rates = []
    for _ in range(9):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([keras.ops.ones(1)], [variable])
    assert rates == pytest.approx([1.0] * 3 + [0.1] * 3 + [0.01] * 3)
