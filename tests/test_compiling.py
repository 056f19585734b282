import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.training import (
    RMSprop,
    compile_model,
    learning_rates,
    peak_learning_rate,
    recipe,
)


@pytest.mark.parametrize("epochs", [4, 20, 60])
def test_small_recipe_ends_as_low_as_the_papers(epochs):
    def last_factor(name, **overrides):
        chosen = recipe(name, **overrides)
        return learning_rates(chosen, 100)[-1]["learning_rate"] / peak_learning_rate(chosen)

    assert last_factor("small", epochs=epochs) == pytest.approx(last_factor("paper"), rel=0.04)


def test_fine_tuning_warms_up_and_falls_to_nothing_by_a_cosine():
    chosen = recipe("finetune", epochs=10, learning_rate=1e-6, warmup_epochs=2)
    rows = learning_rates(chosen, steps_per_epoch=10)
    assert [row["epoch"] for row in rows] == pytest.approx([step / 10 for step in range(100)])
    assert {row["stage"] for row in rows} == {"fine-tune"}
    rates = np.array([row["learning_rate"] for row in rows])
    steps = np.arange(100)
    cosine = 0.5e-6 * (1 + np.cos(np.pi * (steps - 20) / 80))
    np.testing.assert_allclose(rates, np.where(steps < 20, 1e-6 * steps / 20, cosine), atol=1e-12)
    assert learning_rates(recipe("probe")) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rmsprop", keras.optimizers.RMSprop),
        ("sgd", keras.optimizers.SGD),
        ("adamw", keras.optimizers.AdamW),
        ("lion", keras.optimizers.Lion),
    ],
)
def test_every_optimizer_takes_the_layers_rates(name, kind, small):
    options = {"optimizer": name, "warmup_epochs": 0, "layer_decay": 0.5, "learning_rate": 1e-3}
    model = ke.EfficientNet(small, input_shape=(32, 32, 3), classes=3)
    ke.freeze_batch_norm(model)
    compile_model(model, recipe("finetune", **options, weight_decay=0.0), 5)
    assert isinstance(model.optimizer, kind)
    before = {variable.path: variable.numpy() for variable in model.trainable_variables}
    model.optimizer.apply(
        [keras.ops.ones_like(variable) for variable in model.trainable_variables],
        model.trainable_variables,
    )
    moved = {
        variable.path.split("/")[0]: float(abs(before[variable.path] - variable.numpy()).max())
        for variable in model.trainable_variables
    }
    # Equal gradients, so that steps differ by the rates alone.
    assert moved["top_conv"] == pytest.approx(moved["predictions"] / 2, rel=1e-3)
    assert moved["stem_conv"] < moved["block1a_dwconv"] < moved["top_conv"]
    model.optimizer.rate_scale.assign(0.25)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.25e-3, rel=0.01)
    copy = type(model.optimizer).from_config(model.optimizer.get_config())
    assert copy.rate_factors == model.optimizer.rate_factors


def test_progressive_stages_share_one_schedule():
    rows = learning_rates(recipe("v2-progressive", epochs=8), steps_per_epoch=10)
    whole = learning_rates(recipe("v2-progressive", epochs=8, progressive=None), 10)
    for row, same in zip(rows, whole, strict=True):
        assert row["learning_rate"] == pytest.approx(same["learning_rate"], rel=1e-6)
    assert [rows[step]["stage"] for step in (0, 19, 20, 79)] == [
        "stage 1",
        "stage 1",
        "stage 2",
        "stage 4",
    ]


def test_a_compiled_model_has_the_recipes_optimizer_and_schedule():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    chosen = recipe("paper", batch_size=64, epochs=10)
    assert compile_model(model, chosen, steps_per_epoch=7) is model
    optimizer = model.optimizer
    assert isinstance(optimizer, RMSprop)
    assert (optimizer.rho, optimizer.momentum, optimizer.epsilon) == (0.9, 0.9, 0.001)
    assert (optimizer.initial_mean_square, optimizer.l2) == (1.0, 1e-5)
    assert float(optimizer.learning_rate) == 0.0  # step 0 of the warm-up
    optimizer.iterations.assign(5 * 7)
    assert float(optimizer.learning_rate) == pytest.approx(0.004 * 0.97**2)
    assert model.loss.from_logits is False
    assert model.loss.label_smoothing == 0.1


def test_a_given_learning_rate_is_reached():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    compile_model(model, recipe("small", learning_rate=1e-6, warmup_epochs=0), 7)
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-6)


@pytest.mark.parametrize(
    ("name", "momentum"), [("paper", 0.99), ("small", 1 - 5 / (30 * 7)), ("finetune", 0.9)]
)
def test_the_momentum_of_batch_normalization_suits_the_number_of_steps(name, momentum):
    model = keras.Sequential([keras.Input((4,)), ke.layers.BatchNormalization(momentum=0.99)])
    compile_model(model, recipe(name), steps_per_epoch=7)
    assert model.layers[0].momentum == pytest.approx(momentum)


def test_logits_are_recognised_by_the_last_layer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert compile_model(model, recipe("small"), 1).loss.from_logits is True


def test_loss_and_metrics_are_the_tasks():
    class Regression:
        name, classifier_activation = "regression", "linear"

        def loss(self, label_smoothing, from_logits):
            return keras.losses.MeanAbsoluteError(name=f"{label_smoothing}_{from_logits}")

        def metrics(self):
            return [keras.metrics.MeanSquaredError()]

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    compile_model(model, recipe("small"), 1, task=Regression())
    results = model.train_on_batch(np.zeros((1, 4)), np.full((1, 1), 2.0), return_dict=True)
    assert results == pytest.approx({"loss": 2, "mean_squared_error": 4})
    assert model.loss.name == "0.1_False"


def test_an_epoch_without_steps_is_refused():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    with pytest.raises(InputError, match="steps_per_epoch=0 must be at least 1"):
        compile_model(model, recipe("small"), 0)


@pytest.mark.parametrize(
    ("head", "message"),
    [
        (keras.layers.Dense(3, "sigmoid"), "ends in 'sigmoid'; a recipe trains models that end in"),
        (keras.layers.Dense(1), r"outputs of shape \(None, 1\); .* with at least two classes"),
        (keras.layers.Reshape((2, 2)), r"outputs of shape \(None, 2, 2\)"),
    ],
)
def test_a_head_that_a_recipe_cannot_train_is_refused(head, message):
    inputs = keras.Input((4,))
    with pytest.raises(InputError, match=message):
        compile_model(keras.Model(inputs, head(inputs)), recipe("small"), 10)


@pytest.mark.parametrize(
    ("layers", "from_logits"),
    [
        ([keras.layers.Dense(3)], True),
        ([keras.layers.Dense(3, "softmax")], False),
        ([keras.layers.Dense(3), keras.layers.Softmax()], False),
        ([keras.layers.Dense(3), keras.layers.Activation("softmax")], False),
    ],
)
def test_the_loss_knows_logits_from_probabilities(layers, from_logits):
    model = keras.Sequential([keras.Input((4,)), *layers])
    compile_model(model, recipe("small"), 10)
    assert model.loss.get_config()["from_logits"] is from_logits
