import pytest

from keras_efficientnet import InputError
from keras_efficientnet.training import FineTuning, Progressive, plan_stages, recipe


def test_paper_constants():
    paper = recipe("paper", variant="B0", batch_size=4096)
    assert (paper.rho, paper.momentum, paper.epsilon) == (0.9, 0.9, 0.001)
    assert (paper.initial_mean_square, paper.l2, paper.ema_decay) == (1.0, 1e-5, 0.9999)
    assert (paper.epochs, paper.warmup_epochs, paper.label_smoothing) == (350, 5, 0.1)
    assert (paper.decay_rate, paper.decay_epochs, paper.drop_connect_rate) == (0.97, 2.4, 0.2)
    assert (paper.augmentation.policy, paper.augmentation.min_crop_area) == ("auto", 0.08)
    assert paper.augmentation.mixup_alpha == paper.augmentation.cutmix_alpha == 0
    (stage,) = plan_stages(paper, 224)
    assert (stage.epochs, stage.image_size, stage.dropout_rate) == (350, 224, 0.2)


@pytest.mark.parametrize(
    ("variant", "dropout", "magnitude"), [("B0", 0.2, 10), ("B5", 0.4, 17), ("B7", 0.5, 28)]
)
def test_dropout_and_magnitude_are_the_variants(variant, dropout, magnitude):
    chosen = recipe("paper", variant, policy="rand")
    assert (chosen.dropout_rate, chosen.augmentation.magnitude) == (dropout, magnitude)
    assert (chosen.augmentation.policy, chosen.augmentation.num_layers) == ("rand", 2)


def test_overrides_reach_every_record():
    chosen = recipe("finetune", momentum=0.8, min_crop_area=0.5, layer_decay=0.5)
    assert chosen.momentum == 0.8
    assert chosen.augmentation.min_crop_area == 0.5
    assert chosen.fine_tuning == FineTuning(layer_decay=0.5)
    assert chosen == recipe(
        "finetune",
        **{
            "recipe.momentum": 0.8,
            "augmentation.min_crop_area": 0.5,
            "fine_tuning.layer_decay": 0.5,
        },
    )


def test_overrides_name_the_record_where_two_have_a_value():
    first = {"magnitude": 3, "dropout_rate": 0.05, "mixup_alpha": 0.1}
    last = {"augmentation.magnitude": 12, "recipe.dropout_rate": 0.4, "augmentation.mixup_alpha": 1}
    chosen = recipe(
        "v2-progressive", **last, **{f"progressive.{name}": value for name, value in first.items()}
    )
    assert chosen.progressive == Progressive(**first)
    assert chosen.dropout_rate == 0.4
    assert (chosen.augmentation.magnitude, chosen.augmentation.mixup_alpha) == (12, 1)
    # Where only one record has the value, its bare name is enough.
    assert recipe("small", magnitude=12, dropout_rate=0.4).augmentation.magnitude == 12


@pytest.mark.parametrize("name", ["epochs", "recipe.epochs"])
def test_the_small_recipes_follow_the_number_of_epochs(name):
    chosen = recipe("small", **{name: 6})
    assert (chosen.epochs, chosen.warmup_epochs) == (6, 1.5)
    assert chosen.decay_epochs == pytest.approx(2.4 * 6 / 350)
    chosen = recipe("finetune", **{name: 2})
    assert (chosen.epochs, chosen.warmup_epochs) == (2, 0.5)
    assert recipe("finetune", **{name: 0}).epochs == 0


def test_fine_tuning_passes_less_often_over_more_images():
    by_images = [recipe("finetune", images=count) for count in (25, 500, 5_000, 1_000_000)]
    epochs = [chosen.epochs for chosen in by_images]
    assert epochs == sorted(epochs, reverse=True)
    assert (epochs[0], epochs[-1]) == (30, 3)
    assert by_images[1] == recipe("finetune")
    assert by_images[1].batch_size < by_images[2].batch_size
    assert recipe("small", images=25) == recipe("small")


def test_whole_parts_can_be_given_and_taken_away():
    assert recipe("v2-progressive", progressive=None, magnitude=7).progressive is None
    chosen = recipe("small", progressive=Progressive(stages=2), **{"progressive.magnitude": 4})
    assert chosen.progressive == Progressive(stages=2, magnitude=4)
    given = FineTuning(layer_decay=1.0)
    assert recipe("finetune", fine_tuning=given).fine_tuning == given


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "tiny"}, "choose paper, small, finetune, probe, v2-progressive"),
        ({"name": "small", "epoch": 3}, "no 'epoch'; it has .*epochs"),
        ({"name": "small", "layer_decay": 0.5}, "no 'layer_decay'"),
        ({"name": "small", "progressive.stages": 3}, "no 'progressive.stages'"),
        ({"name": "small", "optimizer.momentum": 3}, "no 'optimizer.momentum'"),
        ({"name": "small", "name.epochs": 3}, "no 'name.epochs'"),
        (
            {"name": "v2-progressive", "magnitude": 5},
            "two values 'magnitude'; name augmentation.magnitude or progressive.magnitude",
        ),
        ({"name": "v2-progressive", "dropout_rate": 0}, "recipe.dropout_rate or progressive.dr"),
        ({"name": "small", "epochs": 0}, "epochs=0 must be at least 1"),
        ({"name": "small", "epochs": 2.5}, "epochs=2.5 must be a whole number"),
        ({"name": "small", "epochs": True}, "epochs=True must be a whole number"),
        ({"name": "small", "policy": 3}, "policy=3 must be a text"),
        ({"name": "small", "momentum": "high"}, "momentum='high' must be a number"),
        ({"name": "small", "learning_rate": "high"}, "learning_rate='high' must be a number or"),
        ({"name": "small", "augmentation": 3}, "augmentation=3 must be .*Augmentation"),
        ({"name": "paper", "base_learning_rate": -1}, "base_learning_rate=-1 must be above 0"),
        ({"name": "paper", "learning_rate": 0}, "learning_rate=0 must be above 0"),
        ({"name": "paper", "batch_norm_momentum": 0.0}, "batch_norm_momentum=0.0 must be above 0"),
        ({"name": "paper", "min_crop_area": 0}, "min_crop_area=0 must be above 0"),
        ({"name": "paper", "dropout_rate": 1.0}, "dropout_rate=1.0 must be"),
        ({"name": "v2-progressive", "epochs": 3}, "epochs=3 must be at least stages=4"),
        ({"name": "v2-progressive", "stages": 0}, "stages=0 must be at least 1"),
        ({"name": "v2-progressive", "progressive.magnitude": 99}, "magnitude=99 must be from 0"),
        ({"name": "v2-progressive", "fine_tuning": FineTuning()}, "progressive or fine-tune"),
        ({"name": "finetune", "epochs": -1}, "epochs=-1 must be at least 0"),
        ({"name": "finetune", "layer_decay": 0}, "layer_decay=0 must be above 0 and at most 1"),
        ({"name": "finetune", "keep_best": 1}, "keep_best=1 must be true or false"),
        ({"name": "finetune", "patience": 0}, "patience=0 must be at least 1"),
        ({"name": "small", "optimizer": "adam"}, "optimizer='adam' must be one of rmsprop, sgd"),
        ({"name": "small", "schedule": "linear"}, "schedule='linear' must be one of exponential"),
        (
            {"name": "small", "learning_rate": 0.1, "base_learning_rate": 0.1},
            "learning_rate or base_learning_rate, not both",
        ),
    ],
)
def test_bad_recipes_are_refused_in_a_sentence(arguments, message):
    with pytest.raises(InputError, match=message):
        recipe(**arguments)
