"""Training recipes: every constant of a run in one frozen record.

Sources, cited by the names used below:

- TPU: `main.py`, `utils.py`, `preprocessing.py` and `autoaugment.py` of
  https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet
- AML: https://github.com/google/automl/tree/master/efficientnetv2
- V2 paper: https://arxiv.org/abs/2104.00298, Table 6
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_efficientnet import scaling
from keras_efficientnet.data.pipeline import Augmentation
from keras_efficientnet.errors import InputError
from keras_efficientnet.losses import SmoothedCrossentropy, accuracy
from keras_efficientnet.training.optimizer import RMSprop
from keras_efficientnet.training.schedule import WarmupExponentialDecay

# The learning rate is stated for this many images and grows in proportion to the batch.
REFERENCE_BATCH_SIZE = 256
# Share of a run's steps that moving statistics average over at most.
STATISTICS_SHARE = 0.2

# TPU, README: RandAugment's magnitude of the published networks.
_MAGNITUDES = {"B5": 17, "B7": 28, "B8": 28}
# AML, effnetv2_configs.py, and V2 paper: the last stage's magnitude, mixup and dropout.
_PROGRESSIVE_ENDS = {
    "V2-S": (10, 0.0, 0.3),
    "V2-M": (15, 0.2, 0.4),
    "V2-L": (20, 0.5, 0.5),
    "V2-XL": (20, 0.5, 0.5),
}


@dataclass(frozen=True)
class Progressive:
    """Progressive learning: equal stages whose difficulty grows (V2 paper; AML code).

    Image size, RandAugment magnitude, dropout and mixup grow from the first stage's
    values, which stand here, to the recipe's own in the last.

    Attributes:
        stages: number of stages.
        image_size: pixels that the growth begins from; stage s of n has
            `int(image_size + (final - image_size) * (s + 1) / n)`, so that none is this
            small. Half the final size where that is less.
        magnitude: of the first stage.
        dropout_rate: of the first stage.
        mixup_alpha: of the first stage.
    """

    stages: int = 4
    image_size: int = 128
    magnitude: float = 5
    dropout_rate: float = 0.1
    mixup_alpha: float = 0.0


@dataclass(frozen=True)
class FineTuning:
    """Training of pretrained weights in two phases: what is fresh, then more of the network.

    Attributes:
        head_epochs: epochs in which only the layers without pretrained weights learn.
        head_base_learning_rate: their learning rate for a batch of 256.
        unfreeze_from: where learning begins in the second phase, see `unfreeze_from`.
    """

    head_epochs: int = 8
    head_base_learning_rate: float = 0.08
    unfreeze_from: str = "block5"


@dataclass(frozen=True)
class Stage:
    """A stretch of a run in which nothing changes but the learning rate.

    Attributes:
        name: for people.
        epochs: passes over the training images.
        image_size: side of the images in pixels.
        augmentation: of the images.
        dropout_rate: ahead of the classifier; None for the network's own.
        unfreeze_from: where learning begins, see `unfreeze_from`; `"fresh"` for the first
            layer without pretrained weights.
        base_learning_rate: where the stage begins a new optimizer and schedule; None where
            it goes on with those of the stage before.
    """

    name: str
    epochs: int
    image_size: int
    augmentation: Augmentation
    dropout_rate: float | None = None
    unfreeze_from: str = "stem"
    base_learning_rate: float | None = None


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's.

    Attributes:
        name: of the recipe.
        batch_size: images that one change of the weights looks at.
        epochs: passes over the training images.
        base_learning_rate: for a batch of 256; see `learning_rate`.
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
        dropout_rate: ahead of the classifier; None for the variant's own.
        drop_connect_rate: stochastic depth, see `EfficientNet`.
        batch_norm_momentum: of the moving statistics; None for the variant's own, or less
            where that would average over more than a fifth of the run.
        augmentation: of the training images.
        progressive: growing image size and regularization; None for none.
        fine_tuning: two phases from pretrained weights; None for one from any weights.
    """

    name: str = "paper"
    batch_size: int = 4096
    epochs: int = 350
    base_learning_rate: float = 0.016
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
        for name, valid, accepted in (
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("base_learning_rate", self.base_learning_rate > 0, "above 0"),
            ("warmup_epochs", self.warmup_epochs >= 0, "at least 0"),
            ("decay_epochs", self.decay_epochs > 0, "above 0"),
            ("decay_rate", 0 < self.decay_rate <= 1, "above 0 and at most 1"),
            ("rho", 0 <= self.rho < 1, "at least 0 and below 1"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("epsilon", self.epsilon > 0, "above 0"),
            ("initial_mean_square", self.initial_mean_square >= 0, "at least 0"),
            ("l2", self.l2 >= 0, "at least 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            ("ema_decay", 0 <= self.ema_decay < 1, "at least 0 and below 1"),
            ("dropout_rate", 0 <= (self.dropout_rate or 0) < 1, "at least 0 and below 1"),
            ("drop_connect_rate", 0 <= self.drop_connect_rate < 1, "at least 0 and below 1"),
            (
                "batch_norm_momentum",
                0 < (self.batch_norm_momentum or 0.99) < 1,
                "above 0 and below 1",
            ),
        ):
            if not valid:
                raise InputError(f"{name}={getattr(self, name)!r} must be {accepted}.")
        if self.progressive and self.fine_tuning:
            raise InputError("A recipe can be progressive or fine-tune, not both.")
        if self.progressive and not 1 <= self.progressive.stages <= self.epochs:
            raise InputError(
                f"{self.progressive.stages} progressive stages need as many epochs; "
                f"epochs={self.epochs}."
            )
        if self.fine_tuning and not 0 <= self.fine_tuning.head_epochs < self.epochs:
            raise InputError(
                f"head_epochs={self.fine_tuning.head_epochs} must be at least 0 and below "
                f"epochs={self.epochs}."
            )

    @property
    def learning_rate(self) -> float:
        """Peak learning rate at this batch size: 0.256 for the paper's 4096 images."""
        return self._peak(self.base_learning_rate)

    def schedule(self, steps_per_epoch: int) -> WarmupExponentialDecay:
        """Returns the learning rate as a function of the step."""
        return self._schedule(self.base_learning_rate, steps_per_epoch)

    def learning_rates(self, steps_per_epoch: int = 50) -> list[dict[str, Any]]:
        """Returns the learning rate of every step, for `plots.learning_rate_schedule`.

        Returns:
            A row for each step, in order: `epoch`, counted from 0 and with its fraction,
            `stage`, and `learning_rate`.
        """
        rows: list[dict[str, Any]] = []
        schedule, first = self.schedule(steps_per_epoch), 0
        for stage in self.plan(image_size=224):  # which does not matter
            begin, end = len(rows), len(rows) + stage.epochs * steps_per_epoch
            if stage.base_learning_rate is not None:
                schedule = self._schedule(stage.base_learning_rate, steps_per_epoch, stage)
                first = begin
            rates = keras.ops.convert_to_numpy(schedule(np.arange(begin - first, end - first)))
            rows += [
                {"epoch": step / steps_per_epoch, "stage": stage.name, "learning_rate": rate}
                for step, rate in zip(range(begin, end), rates.tolist(), strict=True)
            ]
        return rows

    def plan(self, image_size: int) -> tuple[Stage, ...]:
        """Returns what happens one after the other.

        Args:
            image_size: side of the images that the finished network takes.
        """
        whole = Stage(
            "train",
            self.epochs,
            image_size,
            self.augmentation,
            self.dropout_rate,
            base_learning_rate=self.base_learning_rate,
        )
        if self.progressive:
            return self._progressive_plan(whole, self.progressive)
        if not self.fine_tuning:
            return (whole,)
        tuning = self.fine_tuning
        head = dataclasses.replace(
            whole,
            name="head",
            epochs=tuning.head_epochs,
            unfreeze_from="fresh",
            base_learning_rate=tuning.head_base_learning_rate,
        )
        blocks = dataclasses.replace(
            whole,
            name="blocks",
            epochs=self.epochs - tuning.head_epochs,
            unfreeze_from=tuning.unfreeze_from,
        )
        return (head, blocks) if tuning.head_epochs else (blocks,)

    def _progressive_plan(self, whole: Stage, first: Progressive) -> tuple[Stage, ...]:
        count, final = first.stages, whole.image_size
        begin = min(first.image_size, final // 2)
        # A network's own dropout is not known here; the V2 paper's ends at a given one.
        last_dropout = first.dropout_rate if whole.dropout_rate is None else whole.dropout_rate
        plan = []
        for stage in range(count):
            share = stage / max(count - 1, 1) if count > 1 else 1.0

            def ramp(start, end, share=share):
                return start + (end - start) * share

            grown = self.augmentation
            plan.append(
                dataclasses.replace(
                    whole,
                    name=f"stage {stage + 1}",
                    epochs=self.epochs * (stage + 1) // count - self.epochs * stage // count,
                    image_size=int(begin + (final - begin) * (stage + 1) / count),
                    augmentation=dataclasses.replace(
                        grown,
                        magnitude=ramp(first.magnitude, grown.magnitude),
                        mixup_alpha=ramp(first.mixup_alpha, grown.mixup_alpha),
                    ),
                    dropout_rate=ramp(first.dropout_rate, last_dropout),
                    base_learning_rate=None if stage else whole.base_learning_rate,
                )
            )
        return tuple(plan)

    def compile(
        self,
        model: keras.Model,
        steps_per_epoch: int,
        stage: Stage | None = None,
        *,
        accumulation: int = 1,
        steps_per_execution: int = 1,
    ) -> keras.Model:
        """Compiles a classifier for `model.fit` with this optimizer, schedule and loss.

        Batch normalization gets the recipe's momentum, or its own as far as the run has the
        steps for it.

        Args:
            model: ends in a softmax or in logits. Labels may be class indices `[batch]`
                or distributions `[batch, classes]`.
            steps_per_epoch: changes of the weights in an epoch.
            stage: the stage that begins here, where the recipe has several.
            accumulation: batches whose gradients are averaged for one change.
            steps_per_execution: batches that Keras runs between two calls from Python.

        Returns:
            The model itself.
        """
        if steps_per_epoch < 1:
            raise InputError(f"steps_per_epoch={steps_per_epoch} must be at least 1.")
        # Statistics that remember more of a short run would be those of its first weights.
        longest = 1 - 1 / max(1.0, STATISTICS_SHARE * self.epochs * steps_per_epoch)
        for layer in model.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = self.batch_norm_momentum or min(layer.momentum, longest)
        rate = stage.base_learning_rate if stage else None
        activation = getattr(model.layers[-1], "activation", None)
        model.compile(
            optimizer=RMSprop(
                self._schedule(rate or self.base_learning_rate, steps_per_epoch, stage),
                rho=self.rho,
                momentum=self.momentum,
                epsilon=self.epsilon,
                initial_mean_square=self.initial_mean_square,
                l2=self.l2,
                gradient_accumulation_steps=accumulation if accumulation > 1 else None,
            ),
            loss=SmoothedCrossentropy(
                self.label_smoothing, from_logits=activation is not keras.activations.softmax
            ),
            metrics=[keras.metrics.MeanMetricWrapper(accuracy, name="accuracy")],
            # XLA on CPUs takes minutes to compile a network of this depth.
            jit_compile="auto" if keras.backend.backend() == "jax" else False,
            steps_per_execution=steps_per_execution,
        )
        return model

    def describe(self, image_size: int) -> str:
        """Returns every value and the stages, a line each, for people."""
        lines = [f"Recipe {self.name}"]
        values = {**vars(self), **vars(self.augmentation)}
        values["learning_rate"] = f"{self.learning_rate:g} at the peak"
        for name in ("name", "augmentation", "progressive", "fine_tuning"):
            values.pop(name)
        lines += [f"  {name} = {value}" for name, value in values.items()]
        for stage in self.plan(image_size):
            rate = stage.base_learning_rate
            lines.append(
                f"  {stage.name}: {stage.epochs} epochs at {stage.image_size} px"
                + (f", learning from {stage.unfreeze_from}" if self.fine_tuning else "")
                + (f", peak learning rate {self._peak(rate):g}" if rate else "")
                + (
                    f", magnitude {stage.augmentation.magnitude:g}, "
                    f"mixup {stage.augmentation.mixup_alpha:g}, dropout {stage.dropout_rate:g}"
                    if self.progressive
                    else ""
                )
            )
        return "\n".join(lines)

    def _schedule(self, base_rate: float, steps_per_epoch: int, stage: Stage | None = None):
        # A phase of fine-tuning has a schedule of its own, squeezed into its epochs.
        share = stage.epochs / self.epochs if stage and self.fine_tuning else 1.0
        return WarmupExponentialDecay(
            peak=self._peak(base_rate),
            warmup_steps=self.warmup_epochs * share * steps_per_epoch,
            decay_steps=self.decay_epochs * share * steps_per_epoch,
            decay_rate=self.decay_rate,
        )

    def _peak(self, base_rate: float) -> float:
        return base_rate * self.batch_size / REFERENCE_BATCH_SIZE


RECIPES = ("paper", "small", "finetune", "v2-progressive")


def recipe(name: str, variant: scaling.Variant | None = None, **overrides: Any) -> Recipe:
    """Returns a recipe by name, with single values replaced.

    - `"paper"`: ImageNet from scratch with AutoAugment, 350 epochs at batch 4096.
    - `"v2-progressive"`: the V2 paper's growing stages with RandAugment and mixup.
    - `"finetune"`: from pretrained weights on some hundred to some ten thousand images:
      first the fresh layers, then the later blocks.
    - `"small"`: from scratch on a small data set: small batches, half the learning rate,
      milder regularization, and the paper's decay squeezed into few epochs so that the
      rate falls as far.

    Args:
        name: one of these.
        variant: the network, for what depends on it: dropout, and RandAugment's magnitude.
        **overrides: fields of `Recipe`, `Augmentation`, `Progressive` and `FineTuning`.

    Examples:
        >>> recipe("paper").learning_rate
        0.256
        >>> recipe("paper", variant="B7", policy="rand").augmentation.magnitude
        28

    Raises:
        InputError: if the name or a field is unknown, or a value is out of range.
    """
    if name not in RECIPES:
        raise InputError(f"Unknown recipe {name!r}; choose {', '.join(RECIPES)}.")
    epochs = overrides.get("epochs")
    if epochs is not None:
        _replace(Recipe(), {"epochs": epochs})  # refused before anything is reckoned from it
    base = _named(name, variant, epochs)
    parts = {
        field: value
        for field in ("augmentation", "progressive", "fine_tuning")
        if (value := overrides.pop(field, getattr(base, field))) is not None
    }
    changed: dict[str, Any] = {}
    for key, value in overrides.items():
        # Progressive's fields are first values of what the recipe itself has as last ones.
        owner = next(
            (
                field
                for field, part in parts.items()
                if key in _fields(part) and key not in _fields(base)
            ),
            None,
        )
        if owner:
            parts[owner] = _replace(parts[owner], {key: value})
        elif key in _fields(base) and key != "name":
            changed[key] = value
        else:
            known = sorted({*_fields(base), *(f for part in parts.values() for f in _fields(part))})
            raise InputError(
                f"Recipe {name!r} has no {key!r}; it has "
                f"{', '.join(field for field in known if field not in ('name', *parts))}."
            )
    return _replace(base, {**changed, **parts})


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
        # leave weights so scattered that 8 bits cannot hold the activations.
        base_learning_rate=paper.base_learning_rate / 2,
    )
    if name == "small":
        return dataclasses.replace(short, l2=0.0)
    return dataclasses.replace(
        short,
        batch_size=32,
        drop_connect_rate=0.1,
        batch_norm_momentum=0.9,
        # Weights that are good already want smaller steps than random ones.
        base_learning_rate=paper.base_learning_rate / 4,
        augmentation=Augmentation(min_crop_area=0.3),
        fine_tuning=FineTuning(head_epochs=min(FineTuning.head_epochs, epochs // 2)),
    )


def _fields(record: Any) -> dict[str, Any]:
    return {field.name: field.type for field in dataclasses.fields(record)}


def _replace(record: Any, values: dict[str, Any]) -> Any:
    """`dataclasses.replace`, with the caller's values held to the fields' types."""
    for name, value in values.items():
        kind = _fields(record)[name]
        # A whole number is a fine float; True is no number.
        accepted = kind | int if kind in (float, float | None) else kind
        if isinstance(value, bool) or not isinstance(value, accepted):
            wanted = "a whole number" if kind is int else "a text" if kind is str else "a number"
            raise InputError(f"{name}={value!r} must be {wanted}.")
    return dataclasses.replace(record, **values)
