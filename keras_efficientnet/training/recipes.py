"""Training recipes: every constant of a run in one frozen record.

Sources, cited by the names used below:

- TPU: `main.py`, `utils.py`, `preprocessing.py` and `autoaugment.py` of
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet
- AML: https://github.com/google/automl/tree/master/efficientnetv2
- V2 paper: https://arxiv.org/abs/2104.00298, Table 6
"""

import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from keras_efficientnet import scaling
from keras_efficientnet.data.pipeline import Augmentation
from keras_efficientnet.errors import InputError, require, require_choice

RECIPES = ("paper", "small", "finetune", "probe", "v2-progressive")
SCRATCH = ("paper", "small", "v2-progressive")
"""Those that begin from random weights, if none are asked for."""
OPTIMIZERS = ("rmsprop", "sgd", "adamw", "lion")
SCHEDULES = ("exponential", "cosine")

# Fine-tuning's epochs are stated for so many training images.
TYPICAL_IMAGES = 500
TYPICAL_EPOCHS = 10
MAX_EPOCHS = 30
SMALL_BATCHES_BELOW = 2_000

# A recipe's fields that are records of their own.
_PARTS = ("augmentation", "progressive", "fine_tuning")
_KINDS = {
    bool: "true or false",
    int: "a whole number",
    str: "a text",
    float: "a number",
    float | None: "a number or none",
    int | None: "a whole number or none",
}
# TPU, README: RandAugment's magnitude of the published networks.
_MAGNITUDES = {"B5": 17, "B7": 28, "B8": 28}
# AML, effnetv2_configs.py, and V2 paper: the last stage's magnitude, mixup and dropout.
_PROGRESSIVE_ENDS = {
    "V2-S": (10, 0.0, 0.3),
    "V2-M": (15, 0.2, 0.4),
    "V2-L": (20, 0.5, 0.5),
    "V2-XL": (20, 0.5, 0.5),
}


_VALID: dict[str, Callable[[float], bool]] = {
    "at least 0": lambda value: value >= 0,
    "at least 1": lambda value: value >= 1,
    "above 0": lambda value: value > 0,
    "at least 0 and below 1": lambda value: 0 <= value < 1,
    "above 0 and below 1": lambda value: 0 < value < 1,
    "above 0 and at most 1": lambda value: 0 < value <= 1,
}


def _require(record: Any, accepted: str, *names: str) -> None:
    """Refuses a record's values outside a range of `_VALID`; None is no value."""
    for name in names:
        value = getattr(record, name)
        require(value is None or _VALID[accepted](value), name, value, accepted)


@dataclass(frozen=True)
class Progressive:
    """Progressive learning: equal stages whose difficulty grows (V2 paper; AML code).

    Image size, RandAugment magnitude, dropout and mixup grow linearly from the first stage's
    values, which stand here, to the recipe's own in the last.

    Attributes:
        stages: number of stages.
        image_size: pixels that the growth begins from; stage s of n has
            `int(image_size + (final - image_size) * (s + 1) / n)`, so even the first stage's
            images are larger. Half the final size where that is less.
        magnitude: of the first stage.
        dropout_rate: of the first stage.
        mixup_alpha: of the first stage.

    Raises:
        InputError: a value is out of its range.
    """

    stages: int = 4
    image_size: int = 128
    magnitude: float = 5
    dropout_rate: float = 0.1
    mixup_alpha: float = 0.0

    def __post_init__(self):
        """Refuses values that cannot be trained with."""
        _require(self, "at least 1", "stages", "image_size")
        _require(self, "at least 0 and below 1", "dropout_rate")
        Augmentation(magnitude=self.magnitude, mixup_alpha=self.mixup_alpha)


@dataclass(frozen=True)
class FineTuning:
    """Training from pretrained weights: first a linear probe, and from there the network.

    The probe (`fit_probe`) makes a finished classifier of the frozen network. What follows starts
    from it with batch normalization frozen.

    Attributes:
        fresh_from: first layer without pretrained weights, as for `unfreeze_from`. Batch
            normalization from there on is trained.
        unfreeze_from: first layer trained after the probe, see `unfreeze_from`.
        layer_decay: factor of the learning rate from one block to the block before it, see
            `layer_rates`.

    Raises:
        InputError: a value is out of its range.
    """

    fresh_from: str = "classifier"
    unfreeze_from: str = "stem"
    layer_decay: float = 0.95

    def __post_init__(self):
        """Refuses values that cannot be trained with."""
        _require(self, "above 0 and at most 1", "layer_decay")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's.

    Attributes:
        name: of the recipe.
        batch_size: images per optimizer step.
        epochs: passes over the training images; when fine-tuning, those after the probe, which
            may be none.
        optimizer: `"rmsprop"` as the paper's code ran it, `"sgd"` with Nesterov momentum,
            `"adamw"` or `"lion"`.
        schedule: of the learning rate after the warm-up: `"exponential"`, or `"cosine"` to 0 at
            the end of the run.
        base_learning_rate: peak learning rate for a batch of 256; it grows in proportion to
            the batch (TPU, `main.py`).
        learning_rate: peak learning rate at any batch size, in place of that; None for
            `base_learning_rate * batch_size / 256`.
        warmup_epochs: epochs of linear warm-up.
        decay_epochs: epochs between two decays of the learning rate.
        decay_rate: factor of one decay.
        rho: RMSprop's weight of the old mean square.
        momentum: of RMSprop and SGD.
        epsilon: RMSprop's epsilon.
        initial_mean_square: RMSprop's mean square at the start.
        l2: RMSprop's factor of `sum(w ** 2) / 2` in the loss, batch normalization left out.
        weight_decay: of the other optimizers, decoupled from the gradient.
        label_smoothing: share of the target spread evenly over all classes.
        ema_decay: of the moving average of the weights; 0 for none.
        keep_best: end with the weights of the epoch that was best on the images that choose,
            rather than with the last epoch's.
        patience: epochs without a better one after which the run ends; None to run to the end.
        dropout_rate: before the classifier; None for the variant's own.
        drop_connect_rate: stochastic depth, see `EfficientNet`.
        batch_norm_momentum: of the moving statistics; None for the variant's own, or less
            where that would average over more than a fifth of the run.
        augmentation: of the training images.
        progressive: growing image size and regularization; None for none.
        fine_tuning: how pretrained weights are trained on; None for one phase from any weights.

    Raises:
        InputError: a value is out of its range, or two contradict each other.
    """

    name: str = "paper"
    batch_size: int = 4096
    epochs: int = 350
    optimizer: str = "rmsprop"
    schedule: str = "exponential"
    base_learning_rate: float = 0.016
    learning_rate: float | None = None
    warmup_epochs: float = 5
    decay_epochs: float = 2.4
    decay_rate: float = 0.97
    rho: float = 0.9
    momentum: float = 0.9
    epsilon: float = 0.001
    initial_mean_square: float = 1.0
    l2: float = 1e-5
    weight_decay: float = 0.0
    label_smoothing: float = 0.1
    ema_decay: float = 0.9999
    keep_best: bool = False
    patience: int | None = None
    dropout_rate: float | None = None
    drop_connect_rate: float = 0.2
    batch_norm_momentum: float | None = None
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(policy="auto"))
    progressive: Progressive | None = None
    fine_tuning: FineTuning | None = None

    def __post_init__(self):
        """Refuses values that cannot be trained with."""
        _require(self, "at least 1", "batch_size", "patience")
        _require(self, "at least 0" if self.fine_tuning else "at least 1", "epochs")
        for name, known in (("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
            require_choice(name, getattr(self, name), known)
        _require(self, "above 0", "base_learning_rate", "learning_rate", "decay_epochs", "epsilon")
        _require(self, "at least 0", "warmup_epochs", "initial_mean_square", "l2", "weight_decay")
        _require(self, "above 0 and at most 1", "decay_rate")
        _require(self, "above 0 and below 1", "batch_norm_momentum")
        shares = ("rho", "momentum", "label_smoothing", "ema_decay")
        _require(self, "at least 0 and below 1", *shares, "dropout_rate", "drop_connect_rate")
        if self.progressive and self.fine_tuning:
            raise InputError("A recipe can be progressive or fine-tune, not both.")
        if self.progressive:
            stages = self.progressive.stages
            require(self.epochs >= stages, "epochs", self.epochs, f"at least stages={stages}")


def recipe(
    name: str,
    variant: scaling.Variant | None = None,
    images: int | None = None,
    **overrides: Any,
) -> Recipe:
    """Returns a recipe by name, with single values replaced.

    - `"paper"`: ImageNet from scratch with AutoAugment, 350 epochs at batch 4096.
    - `"v2-progressive"`: the V2 paper's growing stages with RandAugment and mixup.
    - `"finetune"`: from pretrained weights on some hundred to some ten thousand images: a
      linear probe, and from there the whole network, of which the best epoch is kept.
    - `"probe"`: the linear probe alone: seconds instead of minutes.
    - `"small"`: from scratch on a small data set: small batches, half the learning rate,
      milder regularization, and the paper's decay squeezed into few epochs so that the
      rate falls as far.

    Args:
        name: one of these.
        variant: the network, for what depends on it: dropout, and RandAugment's magnitude.
        images: number of training images, for what depends on it: epochs and batch of
            `"finetune"`; those for 500 if None.
        **overrides: fields of `Recipe`, `Augmentation`, `Progressive` and `FineTuning`. Where
            several of the recipe's records have a field, its name begins with that of the
            record: `recipe.`, `augmentation.`, `progressive.` or `fine_tuning.`.

    Examples:
        >>> recipe("paper", variant="B7", policy="rand").augmentation.magnitude
        28
        >>> recipe("v2-progressive", **{"progressive.magnitude": 3}).progressive.magnitude
        3

    Raises:
        InputError: if the name or a field is unknown, a field's name could mean two, or a
            value is out of range.
    """
    if name not in RECIPES:
        raise InputError(f"Unknown recipe {name!r}; choose {', '.join(RECIPES)}.")
    epochs = overrides.get("epochs", overrides.get("recipe.epochs"))
    tuned = FineTuning() if name in ("finetune", "probe") else None
    if epochs is not None:  # refused before anything is derived from it
        _replace(Recipe(fine_tuning=tuned), {"epochs": epochs})
    whole = {part: overrides.pop(part) for part in _PARTS if part in overrides}
    if tuned:
        named = _fine_tuning(name, images or TYPICAL_IMAGES, epochs)
    else:
        named = _named(name, variant, epochs)
    base = _replace(named, whole)
    changes: dict[str, dict[str, Any]] = {owner: {} for owner in _records(base)}
    for key, value in overrides.items():
        owner, own_name = _find(key, base)
        changes[owner][own_name] = value
    changed = changes.pop("recipe")
    if {"learning_rate", "base_learning_rate"} <= {*changed}:
        raise InputError("Give learning_rate or base_learning_rate, not both.")
    if "base_learning_rate" in changed:
        changed["learning_rate"] = None  # a recipe's own would go before it
    parts = {owner: _replace(getattr(base, owner), new) for owner, new in changes.items()}
    return _replace(base, {**changed, **parts})


def with_epochs(chosen: Recipe, epochs: int) -> Recipe:
    """Returns a recipe that fine-tunes with another number of epochs, and warm-up in proportion."""
    return dataclasses.replace(
        chosen, epochs=epochs, warmup_epochs=min(chosen.warmup_epochs, epochs / 4)
    )


def recipe_values(chosen: Recipe) -> dict[str, Any]:
    """Returns every single value of a recipe and its parts, by the name that overrides it."""
    records = _records(chosen)
    owners = Counter(name for record in records.values() for name in _fields(record))
    return {
        name if owners[name] == 1 else f"{owner}.{name}": getattr(record, name)
        for owner, record in records.items()
        for name in _fields(record)
    }


def _records(chosen: Recipe) -> dict[str, Any]:
    """Returns a recipe and the parts that it has, by the names that overrides call them."""
    parts = {part: getattr(chosen, part) for part in _PARTS}
    return {"recipe": chosen, **{name: part for name, part in parts.items() if part is not None}}


def _find(key: str, chosen: Recipe) -> tuple[str, str]:
    """Returns the record and the field that the name of an override means."""
    names = [
        f"{owner}.{name}" for owner, part in _records(chosen).items() for name in _fields(part)
    ]
    found = [name for name in names if key in (name, name.partition(".")[2])]
    if not found:
        known = ", ".join(sorted(recipe_values(chosen)))
        raise InputError(f"Recipe {chosen.name!r} has no {key!r}; it has {known}.")
    if len(found) > 1:
        raise InputError(
            f"Recipe {chosen.name!r} has two values {key!r}; name {' or '.join(found)}."
        )
    owner, _, name = found[0].partition(".")
    return owner, name


def _fields(record: Any) -> dict[str, Any]:
    """Returns the types of a record's single values, by name."""
    return {
        field.name: field.type
        for field in dataclasses.fields(record)
        if field.name not in ("name", *_PARTS)
    }


def _replace(record: Any, values: dict[str, Any]) -> Any:
    """`dataclasses.replace`, with the caller's values checked against the fields' types."""
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(record)}
    for name, value in values.items():
        kind = kinds[name]
        # A whole number is a fine float; True is no number.
        accepted = kind | int if kind in (float, float | None) else kind
        valid = isinstance(value, accepted) and isinstance(value, bool) == (kind is bool)
        require(valid, name, value, _KINDS.get(kind, str(kind)))
    return dataclasses.replace(record, **values)


def _named(name: str, variant: scaling.Variant | None, epochs: int | None) -> Recipe:
    spec = scaling.get_variant(variant) if variant is not None else None
    variant_name = spec.name if spec else ""
    magnitude = _MAGNITUDES.get(variant_name, 10)
    paper = Recipe(
        dropout_rate=spec.dropout_rate if spec else None,
        augmentation=Augmentation(policy="auto", magnitude=magnitude),
    )
    if name == "paper":
        return paper
    if name == "v2-progressive":
        magnitude, mixup, dropout = _PROGRESSIVE_ENDS.get(variant_name, _PROGRESSIVE_ENDS["V2-S"])
        return dataclasses.replace(
            paper,
            name=name,
            dropout_rate=dropout,
            augmentation=Augmentation(policy="rand", magnitude=magnitude, mixup_alpha=mixup),
            progressive=Progressive(),
        )
    # "small": few steps in all, so that the rate falls within them.
    epochs = epochs or 30
    return dataclasses.replace(
        paper,
        name=name,
        batch_size=64,
        epochs=epochs,
        warmup_epochs=min(2, epochs / 4),
        decay_epochs=paper.decay_epochs * epochs / paper.epochs,
        initial_mean_square=0.0,
        l2=0.0,
        ema_decay=0.0,
        drop_connect_rate=0.05,
        augmentation=Augmentation(min_crop_area=0.75),
        # RMSprop's steps do not shrink with the gradient: at the paper's rate, few epochs
        # leave weights so scattered that int8 quantization loses accuracy.
        base_learning_rate=paper.base_learning_rate / 2,
    )


def _fine_tuning(name: str, images: int, epochs: int | None) -> Recipe:
    """Returns "finetune" or "probe"; `benchmarks/fine_tuning.py` measures what is chosen here."""
    if epochs is None:
        # Fewer passes over more images, though more steps.
        epochs = min(max(3, round(TYPICAL_EPOCHS * (TYPICAL_IMAGES / images) ** 0.5)), MAX_EPOCHS)
    if name == "probe":
        epochs = 0
    return Recipe(
        name=name,
        # Few images give few steps at best, and small batches give more of them.
        batch_size=16 if images < SMALL_BATCHES_BELOW else 32,
        epochs=epochs,
        optimizer="adamw",
        schedule="cosine",
        learning_rate=3e-4,
        warmup_epochs=min(1, epochs / 4),
        l2=0.0,
        weight_decay=0.05,
        label_smoothing=0.1,
        ema_decay=0.0,
        keep_best=True,
        drop_connect_rate=0.1,
        batch_norm_momentum=0.9,
        augmentation=Augmentation(min_crop_area=0.5),
        fine_tuning=FineTuning(),
    )
