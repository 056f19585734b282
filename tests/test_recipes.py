import keras
import numpy as np
import pytest

from keras_efficientnet import InputError
from keras_efficientnet.training import SmoothedCrossentropy, recipe


@pytest.mark.parametrize(("batch_size", "rate"), [(4096, 0.256), (2048, 0.128), (32, 0.002)])
def test_learning_rate_grows_with_the_batch(batch_size, rate):
    assert recipe("paper", batch_size=batch_size).learning_rate == pytest.approx(rate, rel=1e-12)


def test_paper_constants():
    paper = recipe("paper")
    assert (paper.rho, paper.momentum, paper.epsilon) == (0.9, 0.9, 0.001)
    assert (paper.epochs, paper.warmup_epochs, paper.label_smoothing) == (350, 5, 0.1)
    assert (paper.decay_rate, paper.decay_epochs, paper.drop_connect_rate) == (0.97, 2.4, 0.2)


@pytest.mark.parametrize("epochs", [4, 20, 60])
def test_small_recipe_ends_as_low_as_the_papers(epochs):
    def last_factor(name, **overrides):
        chosen = recipe(name, **overrides)
        return float(chosen.schedule(100)(chosen.epochs * 100 - 1)) / chosen.learning_rate

    assert last_factor("small", epochs=epochs) == pytest.approx(last_factor("paper"), rel=0.04)


def test_compile_uses_the_recipes_optimizer_and_schedule():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    returned = recipe("small", batch_size=64, epochs=10).compile(model, steps_per_epoch=7)
    assert returned is model
    optimizer = model.optimizer
    assert isinstance(optimizer, keras.optimizers.RMSprop)
    assert (optimizer.rho, optimizer.momentum, optimizer.epsilon) == (0.9, 0.9, 0.001)
    assert float(optimizer.learning_rate) == 0.0  # step 0 of the warm-up
    assert model.loss.from_logits is False


def test_rmsprop_follows_the_written_out_rule():
    variable = keras.Variable(np.array([1.0, -2.0], np.float32))
    optimizer = keras.optimizers.RMSprop(0.1, rho=0.9, momentum=0.9, epsilon=0.001)
    value, mean_square, velocity = np.array([1.0, -2.0]), np.zeros(2), np.zeros(2)
    for step in range(5):
        gradient = np.array([0.5, -0.25]) * (step + 1)
        optimizer.apply([keras.ops.convert_to_tensor(gradient, "float32")], [variable])
        mean_square = 0.9 * mean_square + 0.1 * gradient**2
        velocity = 0.9 * velocity + 0.1 * gradient / np.sqrt(mean_square + 0.001)
        value = value - velocity
        np.testing.assert_allclose(variable.numpy(), value, rtol=1e-5)


@pytest.mark.parametrize("from_logits", [False, True])
def test_loss_equals_the_formula_for_indices_and_distributions(from_logits):
    logits = np.array([[2.0, 0.5, -1.0], [0.1, 0.2, 0.3]], np.float32)
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    target = np.array([[1, 0, 0], [0, 0, 1]]) * 0.9 + 0.1 / 3
    expected = -(target * np.log(probabilities)).sum(1).mean()
    loss = SmoothedCrossentropy(0.1, from_logits=from_logits)
    given = logits if from_logits else probabilities
    for labels in (np.array([0, 2]), np.array([[0], [2]]), np.eye(3, dtype="float32")[[0, 2]]):
        assert float(loss(labels, given)) == pytest.approx(expected, rel=1e-5)


def test_logits_are_recognised_by_the_last_layer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert recipe("small").compile(model, 1).loss.from_logits is True


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tiny"}, "choose paper or small"),
        ({"name": "small", "epoch": 3}, "no 'epoch'"),
        ({"name": "small", "epochs": 0}, "epochs=0 must be at least 1"),
        ({"name": "paper", "base_learning_rate": -1}, "base_learning_rate=-1 must be above 0"),
        ({"name": "paper", "min_crop_area": 0}, "min_crop_area=0 must be above 0"),
    ],
)
def test_bad_recipes_are_refused_in_a_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        recipe(**arguments)
