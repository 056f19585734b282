import dataclasses

import keras
import pytest

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.training import RMSprop, recipe


@pytest.mark.parametrize(("batch_size", "rate"), [(4096, 0.256), (2048, 0.128), (32, 0.002)])
def test_learning_rate_grows_with_the_batch(batch_size, rate):
    assert recipe("paper", batch_size=batch_size).learning_rate == pytest.approx(rate, rel=1e-12)


def test_paper_constants():
    paper = recipe("paper", variant="B0", batch_size=4096)
    assert (paper.rho, paper.momentum, paper.epsilon) == (0.9, 0.9, 0.001)
    assert (paper.initial_mean_square, paper.l2, paper.ema_decay) == (1.0, 1e-5, 0.9999)
    assert (paper.epochs, paper.warmup_epochs, paper.label_smoothing) == (350, 5, 0.1)
    assert (paper.decay_rate, paper.decay_epochs, paper.drop_connect_rate) == (0.97, 2.4, 0.2)
    assert (paper.augmentation.policy, paper.augmentation.min_crop_area) == ("auto", 0.08)
    assert paper.augmentation.mixup_alpha == paper.augmentation.cutmix_alpha == 0
    (stage,) = paper.plan(224)
    assert (stage.epochs, stage.image_size, stage.dropout_rate) == (350, 224, 0.2)


@pytest.mark.parametrize(
    ("variant", "dropout", "magnitude"), [("B0", 0.2, 10), ("B5", 0.4, 17), ("B7", 0.5, 28)]
)
def test_dropout_and_magnitude_are_the_variants(variant, dropout, magnitude):
    chosen = recipe("paper", variant, policy="rand")
    assert (chosen.dropout_rate, chosen.augmentation.magnitude) == (dropout, magnitude)
    assert (chosen.augmentation.policy, chosen.augmentation.num_layers) == ("rand", 2)


@pytest.mark.parametrize("epochs", [4, 20, 60])
def test_small_recipe_ends_as_low_as_the_papers(epochs):
    def last_factor(name, **overrides):
        chosen = recipe(name, **overrides)
        return float(chosen.schedule(100)(chosen.epochs * 100 - 1)) / chosen.learning_rate

    assert last_factor("small", epochs=epochs) == pytest.approx(last_factor("paper"), rel=0.04)


@pytest.mark.parametrize(
    ("variant", "sizes", "magnitudes", "mixup", "dropout"),
    [
        ("V2-S", [171, 214, 257, 300], [5, 20 / 3, 25 / 3, 10], [0] * 4, [0.1, 1 / 6, 7 / 30, 0.3]),
        (
            "V2-L",
            [192, 256, 320, 384],
            [5, 10, 15, 20],
            [0, 1 / 6, 1 / 3, 0.5],
            [0.1, 7 / 30, 11 / 30, 0.5],
        ),
    ],
)
def test_progressive_stages_are_the_v2_codes(variant, sizes, magnitudes, mixup, dropout):
    spec = ke.spec.VARIANTS[variant]
    plan = recipe("v2-progressive", variant).plan(spec.train_resolution)
    assert [stage.image_size for stage in plan] == sizes
    assert [stage.augmentation.magnitude for stage in plan] == pytest.approx(magnitudes)
    assert [stage.augmentation.mixup_alpha for stage in plan] == pytest.approx(mixup)
    assert [stage.dropout_rate for stage in plan] == pytest.approx(dropout)
    assert sum(stage.epochs for stage in plan) == 350
    # One learning-rate schedule: only the first stage begins one.
    assert [stage.base_learning_rate for stage in plan] == [0.016, None, None, None]


def test_progressive_stages_can_be_fewer_and_fixed():
    plan = recipe("v2-progressive", stages=2, epochs=5, image_size=32).plan(96)
    assert [(stage.epochs, stage.image_size) for stage in plan] == [(2, 64), (3, 96)]
    (only,) = recipe("v2-progressive", "V2-S", stages=1).plan(300)
    assert (only.image_size, only.augmentation.magnitude, only.dropout_rate) == (300, 10, 0.3)
    # A network smaller than the V2 paper's smallest image still grows.
    assert [stage.image_size for stage in recipe("v2-progressive").plan(64)] == [40, 48, 56, 64]


def test_fine_tuning_has_two_phases_each_with_its_schedule():
    chosen = recipe("finetune", epochs=10, head_epochs=4, unfreeze_from="block6")
    head, blocks = chosen.plan(224)
    assert (head.epochs, head.unfreeze_from) == (4, "fresh")
    assert (blocks.epochs, blocks.unfreeze_from) == (6, "block6")
    assert (head.base_learning_rate, blocks.base_learning_rate) == (0.08, 0.004)
    (only,) = recipe("finetune", epochs=10, head_epochs=0).plan(224)
    assert only.epochs == 10


def test_compile_uses_the_recipes_optimizer_and_schedule():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="softmax")])
    chosen = recipe("paper", batch_size=64, epochs=10)
    assert chosen.compile(model, steps_per_epoch=7) is model
    optimizer = model.optimizer
    assert isinstance(optimizer, RMSprop)
    assert (optimizer.rho, optimizer.momentum, optimizer.epsilon) == (0.9, 0.9, 0.001)
    assert (optimizer.initial_mean_square, optimizer.l2) == (1.0, 1e-5)
    assert float(optimizer.learning_rate) == 0.0  # step 0 of the warm-up
    optimizer.iterations.assign(5 * 7)
    assert float(optimizer.learning_rate) == pytest.approx(0.004 * 0.97**2)
    assert model.loss.from_logits is False
    assert model.loss.label_smoothing == 0.1


@pytest.mark.parametrize(
    ("name", "momentum"), [("paper", 0.99), ("small", 1 - 5 / (30 * 7)), ("finetune", 0.9)]
)
def test_compile_sets_the_momentum_that_suits_the_number_of_steps(name, momentum):
    model = keras.Sequential([keras.Input((4,)), ke.layers.BatchNormalization(momentum=0.99)])
    recipe(name).compile(model, steps_per_epoch=7)
    assert model.layers[0].momentum == pytest.approx(momentum)


def test_logits_are_recognised_by_the_last_layer():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    assert recipe("small").compile(model, 1).loss.from_logits is True


@pytest.mark.parametrize("name", ["paper", "small", "finetune", "v2-progressive"])
def test_the_description_names_every_value(name):
    chosen = recipe(name, "B0")
    text = chosen.describe(224)
    values = {**dataclasses.asdict(chosen), **dataclasses.asdict(chosen.augmentation)}
    for part in ("name", "augmentation", "progressive", "fine_tuning"):
        values.pop(part)
    for field, value in values.items():
        assert f"{field} = {value}" in text
    for stage in chosen.plan(224):
        assert f"{stage.name}: {stage.epochs} epochs at {stage.image_size} px" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tiny"}, "choose paper, small, finetune, v2-progressive"),
        ({"name": "small", "epoch": 3}, "no 'epoch'; it has .*epochs"),
        ({"name": "small", "head_epochs": 3}, "no 'head_epochs'"),
        ({"name": "small", "epochs": 0}, "epochs=0 must be at least 1"),
        ({"name": "small", "epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"name": "small", "epochs": True}, "epochs=True must be a whole number"),
        ({"name": "small", "policy": 3}, "policy=3 must be a text"),
        ({"name": "small", "momentum": "high"}, "momentum='high' must be a number"),
        ({"name": "paper", "base_learning_rate": -1}, "base_learning_rate=-1 must be above 0"),
        ({"name": "paper", "min_crop_area": 0}, "min_crop_area=0 must be above 0"),
        ({"name": "paper", "dropout_rate": 1.0}, "dropout_rate=1.0 must be"),
        ({"name": "v2-progressive", "epochs": 3}, "4 progressive stages .* epochs=3"),
        ({"name": "finetune", "epochs": 3, "head_epochs": 3}, "head_epochs=3 must be"),
    ],
)
def test_bad_recipes_are_refused_in_a_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        recipe(**arguments)
