import re

import pytest

import keras_efficientnet as ke
from keras_efficientnet.training import describe_recipe, peak_learning_rate, plan_stages, recipe


@pytest.mark.parametrize(("batch_size", "rate"), [(4096, 0.256), (2048, 0.128), (32, 0.002)])
def test_the_learning_rate_grows_with_the_batch(batch_size, rate):
    chosen = recipe("paper", batch_size=batch_size)
    assert peak_learning_rate(chosen) == pytest.approx(rate, rel=1e-12)


@pytest.mark.parametrize("batch_size", [4, 32, 4096])
@pytest.mark.parametrize("name", ["paper", "small", "v2-progressive"])
def test_a_given_learning_rate_is_the_peak_at_any_batch_size(name, batch_size):
    chosen = recipe(name, learning_rate=1e-6, batch_size=batch_size)
    assert peak_learning_rate(chosen) == 1e-6
    peaks = [stage.peak_learning_rate for stage in plan_stages(chosen, 224)]
    assert peaks == [1e-6] + [None] * (len(peaks) - 1)
    assert "  learning_rate = 1e-06 at the peak (as given)" in describe_recipe(chosen, 224)


@pytest.mark.parametrize("batch_size", [4, 32])
def test_fine_tunings_learning_rate_is_the_same_at_any_batch_size(batch_size):
    chosen = recipe("finetune", batch_size=batch_size)
    assert peak_learning_rate(chosen) == peak_learning_rate(recipe("finetune"))
    scaled = recipe("finetune", batch_size=batch_size, base_learning_rate=0.016)
    assert peak_learning_rate(scaled) == pytest.approx(0.016 * batch_size / 256)


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
    plan = plan_stages(recipe("v2-progressive", variant), spec.train_resolution)
    assert [stage.image_size for stage in plan] == sizes
    assert [stage.augmentation.magnitude for stage in plan] == pytest.approx(magnitudes)
    assert [stage.augmentation.mixup_alpha for stage in plan] == pytest.approx(mixup)
    assert [stage.dropout_rate for stage in plan] == pytest.approx(dropout)
    assert sum(stage.epochs for stage in plan) == 350
    # One learning-rate schedule: only the first stage begins one.
    assert [stage.peak_learning_rate for stage in plan] == [0.256, None, None, None]


def test_progressive_stages_grow_from_the_first_values():
    chosen = recipe(
        "v2-progressive",
        **{"progressive.magnitude": 2, "augmentation.magnitude": 8},
        **{"progressive.dropout_rate": 0.0, "recipe.dropout_rate": 0.3},
        **{"progressive.mixup_alpha": 0.3, "augmentation.mixup_alpha": 0.0},
    )
    plan = plan_stages(chosen, 224)
    assert [stage.augmentation.magnitude for stage in plan] == pytest.approx([2, 4, 6, 8])
    assert [stage.dropout_rate for stage in plan] == pytest.approx([0, 0.1, 0.2, 0.3])
    assert [stage.augmentation.mixup_alpha for stage in plan] == pytest.approx([0.3, 0.2, 0.1, 0])


def test_progressive_stages_can_be_fewer_and_fixed():
    plan = plan_stages(recipe("v2-progressive", stages=2, epochs=5, image_size=32), 96)
    assert [(stage.epochs, stage.image_size) for stage in plan] == [(2, 64), (3, 96)]
    (only,) = plan_stages(recipe("v2-progressive", "V2-S", stages=1), 300)
    assert (only.image_size, only.augmentation.magnitude, only.dropout_rate) == (300, 10, 0.3)
    # A network smaller than the V2 paper's smallest image still grows.
    plan = plan_stages(recipe("v2-progressive"), 64)
    assert [stage.image_size for stage in plan] == [40, 48, 56, 64]


def test_fine_tuning_is_a_probe_and_one_stage():
    chosen = recipe("finetune", epochs=10, unfreeze_from="block6")
    (stage,) = plan_stages(chosen, 224)
    assert (stage.name, stage.epochs, stage.unfreeze_from) == ("fine-tune", 10, "block6")
    assert plan_stages(recipe("probe"), 224) == ()
    for name in ("probe", "finetune"):
        assert "probe: solved on the frozen network's features at 224 px" in describe_recipe(
            recipe(name), 224
        )


@pytest.mark.parametrize("name", ["paper", "small", "finetune", "probe", "v2-progressive"])
def test_the_description_has_every_value_under_the_name_that_overrides_it(name):
    chosen = recipe(name, "B0")
    text = describe_recipe(chosen, 224)
    lines = [line.strip().partition(" = ") for line in text.splitlines() if " = " in line]
    values = {name: value for name, _, value in lines}
    records = (chosen, chosen.augmentation, chosen.progressive, chosen.fine_tuning)
    fields = [field for record in records if record for field in vars(record)]
    assert len(values) == len(fields) - 4  # without the name and the three parts
    for key, value in values.items():
        if key not in ("learning_rate", "base_learning_rate"):  # each replaces the other
            given = {"None": None, "True": True, "False": False}.get(value, value)
            if isinstance(given, str) and re.fullmatch(r"[\d.e-]+", given):
                given = float(value) if "." in value or "e" in value else int(value)
            assert recipe(name, "B0", **{key: given}) == chosen
    for stage in plan_stages(chosen, 224):
        assert f"{stage.name}: {stage.epochs} epochs at {stage.image_size} px" in text
