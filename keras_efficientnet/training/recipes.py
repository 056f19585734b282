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
from keras_efficientnet.errors import InputError, require

RECIPES = ("paper", "small", "finetune", "v2-progressive")

# A recipe's fields that are records of their own.
_PARTS = ("augmentation", "progressive", "fine_tuning")
_KINDS = {int: "a whole number", str: "a text", float: "a number", float | None: "a number or none"}
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
    """Training from pretrained weights in two phases: the new layers, then more of the network.

    Attributes:
        head_epochs: epochs of the first phase, in which only the layers without pretrained
            weights are trained.
        head_base_learning_rate: the first phase's learning rate for a batch of 256. Where
            `Recipe.learning_rate` is given, the first phase's peak is that times
            `head_base_learning_rate / base_learning_rate`.
        fresh_from: first layer without pretrained weights, as for `unfreeze_from`.
        unfreeze_from: first layer trained in the second phase, see `unfreeze_from`.

    Raises:
        InputError: a value is out of its range.
    """

    head_epochs: int = 8
    head_base_learning_rate: float = 0.08
    fresh_from: str = "classifier"
    unfreeze_from: str = "block5"

    def __post_init__(self):
        """Refuses values that cannot be trained with."""
        _require(self, "at least 0", "head_epochs")
        _require(self, "above 0", "head_base_learning_rate")


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's.

    Attributes:
        name: of the recipe.
        batch_size: images per optimizer step.
        epochs: passes over the training images.
        base_learning_rate: peak learning rate for a batch of 256; it grows in proportion to
            the batch (TPU, `main.py`).
        learning_rate: peak learning rate at any batch size, in place of that; None for
            `base_learning_rate * batch_size / 256`.
        warmup_epochs: epochs of linear warm-up.
        decay_epochs: epochs between two decays of the learning rate.
        decay_rate: factor of one decay.
        rho: RMSprop's weight of the old mean square.
        momentum: RMSprop's momentum.
        epsilon: RMSprop's epsilon.
        initial_mean_square: RMSprop's mean square at the start.
        l2: factor of `sum(w ** 2) / 2` in the loss, batch normalization left out.
        label_smoothing: share of the target spread evenly over all classes.
        ema_decay: of the moving average of the weights; 0 for none.
        dropout_rate: before the classifier; None for the variant's own.
        drop_connect_rate: stochastic depth, see `EfficientNet`.
        batch_norm_momentum: of the moving statistics; None for the variant's own, or less
            where that would average over more than a fifth of the run.
        augmentation: of the training images.
        progressive: growing image size and regularization; None for none.
        fine_tuning: two phases from pretrained weights; None for one phase from any weights.

    Raises:
        InputError: a value is out of its range, or two contradict each other.
    """

    name: str = "paper"
    batch_size: int = 4096
    epochs: int = 350
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
    label_smoothing: float = 0.1
    ema_decay: float = 0.9999
    dropout_rate: float | None = None
    drop_connect_rate: float = 0.2
    batch_norm_momentum: float | None = None
    augmentation: Augmentation = field(default_factory=lambda: Augmentation(policy="auto"))
    progressive: Progressive | None = None
    fine_tuning: FineTuning | None = None

    def __post_init__(self):
        """Refuses values that cannot be trained with."""
        _require(self, "at least 1", "batch_size", "epochs")
        _require(self, "above 0", "base_learning_rate", "learning_rate", "decay_epochs", "epsilon")
        _require(self, "at least 0", "warmup_epochs", "initial_mean_square", "l2")
        _require(self, "above 0 and at most 1", "decay_rate")
        _require(self, "above 0 and below 1", "batch_norm_momentum")
        shares = ("rho", "momentum", "label_smoothing", "ema_decay")
        _require(self, "at least 0 and below 1", *shares, "dropout_rate", "drop_connect_rate")
        if self.progressive and self.fine_tuning:
            raise InputError("A recipe can be progressive or fine-tune, not both.")
        if self.progressive:
            stages = self.progressive.stages
            require(self.epochs >= stages, "epochs", self.epochs, f"at least stages={stages}")
        if self.fine_tuning:
            head = self.fine_tuning.head_epochs
            require(head < self.epochs, "head_epochs", head, f"below epochs={self.epochs}")


def recipe(name: str, variant: scaling.Variant | None = None, **overrides: Any) -> Recipe:
    """Returns a recipe by name, with single values replaced.

    - `"paper"`: ImageNet from scratch with AutoAugment, 350 epochs at batch 4096.
    - `"v2-progressive"`: the V2 paper's growing stages with RandAugment and mixup.
    - `"finetune"`: from pretrained weights on some hundred to some ten thousand images:
      first the new layers, then the later blocks.
    - `"small"`: from scratch on a small data set: small batches, half the learning rate,
      milder regularization, and the paper's decay squeezed into few epochs so that the
      rate falls as far.

    Args:
        name: one of these.
        variant: the network, for what depends on it: dropout, and RandAugment's magnitude.
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
    if epochs is not None:
        _replace(Recipe(), {"epochs": epochs})  # refused before anything is derived from it
    whole = {part: overrides.pop(part) for part in _PARTS if part in overrides}
    base = _replace(_named(name, variant, epochs), whole)
    changes: dict[str, dict[str, Any]] = {owner: {} for owner in _records(base)}
    for key, value in overrides.items():
        owner, own_name = _find(key, base)
        changes[owner][own_name] = value
    changed = changes.pop("recipe")
    if {"learning_rate", "base_learning_rate"} <= {*changed}:
        raise InputError("Give learning_rate or base_learning_rate, not both.")
    parts = {owner: _replace(getattr(base, owner), new) for owner, new in changes.items()}
    return _replace(base, {**changed, **parts})


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
        valid = isinstance(value, accepted) and not isinstance(value, bool)
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
    epochs = epochs or (30 if name == "small" else 18)
    # What both do: few steps in all, so that the rate falls within them.
    short = dataclasses.replace(
        paper,
        name=name,
        batch_size=64,
        epochs=epochs,
        warmup_epochs=min(2, epochs / 4),
        decay_epochs=paper.decay_epochs * max(1, epochs) / paper.epochs,
        initial_mean_square=0.0,
        ema_decay=0.0,
        drop_connect_rate=0.05,
        augmentation=Augmentation(min_crop_area=0.75),
        # RMSprop's steps do not shrink with the gradient: at the paper's rate, few epochs
        # leave weights so scattered that int8 quantization loses accuracy.
        base_learning_rate=paper.base_learning_rate / 2,
    )
    if name == "small":
        return dataclasses.replace(short, l2=0.0)
    return dataclasses.replace(
        short,
        batch_size=32,
        drop_connect_rate=0.1,
        batch_norm_momentum=0.9,
        # Pretrained weights need smaller steps than random ones.
        base_learning_rate=paper.base_learning_rate / 4,
        augmentation=Augmentation(min_crop_area=0.3),
        fine_tuning=FineTuning(head_epochs=min(FineTuning.head_epochs, epochs // 2)),
    )
