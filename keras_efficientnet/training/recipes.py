"""Training recipes: every constant of a run in one frozen record.

The paper's values are those of its code, `main.py` and `utils.py` of
https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet
"""

import dataclasses
from dataclasses import dataclass

import keras
from keras import ops

from keras_efficientnet.errors import InputError
from keras_efficientnet.training.schedule import WarmupExponentialDecay

# The learning rate is stated for this many images and grows in proportion to the batch.
REFERENCE_BATCH_SIZE = 256


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. The defaults are the paper's.

    Attributes:
        name: of the recipe.
        batch_size: images in a step.
        epochs: passes over the training images.
        base_learning_rate: for a batch of 256; see `learning_rate`.
        warmup_epochs: epochs of linear warm-up.
        decay_epochs: epochs between two decays of the learning rate.
        decay_rate: factor of one decay.
        rho: RMSprop's weight of the old mean square.
        momentum: RMSprop's momentum.
        epsilon: RMSprop's epsilon.
        label_smoothing: share of the target spread evenly over all classes.
        min_crop_area: smallest share of an image that a training crop keeps.
        drop_connect_rate: stochastic depth, see `EfficientNet`.
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
    label_smoothing: float = 0.1
    min_crop_area: float = 0.08
    drop_connect_rate: float = 0.2

    def __post_init__(self):
        """Refuses values that cannot be trained with."""
        for field, valid, accepted in (
            ("batch_size", self.batch_size >= 1, "at least 1"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("base_learning_rate", self.base_learning_rate > 0, "above 0"),
            ("warmup_epochs", self.warmup_epochs >= 0, "at least 0"),
            ("decay_epochs", self.decay_epochs > 0, "above 0"),
            ("decay_rate", 0 < self.decay_rate <= 1, "above 0 and at most 1"),
            ("rho", 0 <= self.rho < 1, "at least 0 and below 1"),
            ("momentum", 0 <= self.momentum < 1, "at least 0 and below 1"),
            ("epsilon", self.epsilon > 0, "above 0"),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "at least 0 and below 1"),
            ("drop_connect_rate", 0 <= self.drop_connect_rate < 1, "at least 0 and below 1"),
            ("min_crop_area", 0 < self.min_crop_area <= 1, "above 0 and at most 1"),
        ):
            if not valid:
                raise InputError(f"{field}={getattr(self, field)!r} must be {accepted}.")

    @property
    def learning_rate(self) -> float:
        """Peak learning rate at this batch size: 0.256 for the paper's 4096 images."""
        return self.base_learning_rate * self.batch_size / REFERENCE_BATCH_SIZE

    def schedule(self, steps_per_epoch: int) -> WarmupExponentialDecay:
        """Returns the learning rate as a function of the step."""
        return WarmupExponentialDecay(
            peak=self.learning_rate,
            warmup_steps=self.warmup_epochs * steps_per_epoch,
            decay_steps=self.decay_epochs * steps_per_epoch,
            decay_rate=self.decay_rate,
        )

    def compile(self, model: keras.Model, steps_per_epoch: int) -> keras.Model:
        """Compiles a classifier for `model.fit` with this optimizer, schedule and loss.

        Args:
            model: ends in a softmax or in logits. Labels may be class indices `[batch]`
                or distributions `[batch, classes]`.
            steps_per_epoch: batches in an epoch.

        Returns:
            The model itself.
        """
        if steps_per_epoch < 1:
            raise InputError(f"steps_per_epoch={steps_per_epoch} must be at least 1.")
        activation = getattr(model.layers[-1], "activation", None)
        model.compile(
            optimizer=keras.optimizers.RMSprop(
                self.schedule(steps_per_epoch),
                rho=self.rho,
                momentum=self.momentum,
                epsilon=self.epsilon,
            ),
            loss=SmoothedCrossentropy(
                self.label_smoothing, from_logits=activation is not keras.activations.softmax
            ),
            metrics=["accuracy"],
            # XLA on CPUs takes minutes to compile a network of this depth.
            jit_compile=False,
        )
        return model


def recipe(name: str, **overrides) -> Recipe:
    """Returns a recipe by name, with single values replaced.

    - `"paper"`: ImageNet from scratch, 350 epochs at batch 4096.
    - `"small"`: from scratch on a small data set: small batches, half the learning rate,
      milder regularization, and the paper's decay squeezed into few epochs so that the
      rate falls as far.

    Example:
        >>> recipe("paper").learning_rate
        0.256

    Raises:
        InputError: if the name or a field is unknown, or a value is out of range.
    """
    paper = Recipe()
    if name == "paper":
        base = paper
    elif name == "small":
        epochs = overrides.get("epochs", 22)
        base = dataclasses.replace(
            paper,
            name="small",
            batch_size=64,
            epochs=epochs,
            # RMSprop's steps do not shrink with the gradient: at the paper's rate, few epochs
            # leave weights so scattered that 8 bits cannot hold the activations.
            base_learning_rate=paper.base_learning_rate / 2,
            warmup_epochs=min(2, epochs / 4),
            decay_epochs=paper.decay_epochs * max(1, epochs) / paper.epochs,
            min_crop_area=0.75,
            drop_connect_rate=0.05,
        )
    else:
        raise InputError(f"Unknown recipe {name!r}; choose paper or small.")
    known = {field.name for field in dataclasses.fields(Recipe)} - {"name"}
    if unknown := sorted(set(overrides) - known):
        raise InputError(f"A recipe has no {unknown[0]!r}; it has {', '.join(sorted(known))}.")
    return dataclasses.replace(base, **overrides)


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class SmoothedCrossentropy(keras.losses.Loss):
    """Cross-entropy with label smoothing, for class indices and for distributions.

    Keras' own smooths one-hot labels alone.

    Args:
        label_smoothing: share of the target spread evenly over all classes.
        from_logits: whether predictions are logits rather than probabilities.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        from_logits: bool = False,
        reduction="sum_over_batch_size",
        name="smoothed_crossentropy",
        dtype=None,
    ):
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        self.label_smoothing = label_smoothing
        self.from_logits = from_logits

    def call(self, y_true, y_pred):
        """Returns the loss of each example, `[batch]`."""
        classes = y_pred.shape[-1]
        if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == classes:
            target = y_true
        else:
            indices = ops.cast(ops.reshape(y_true, (-1,)), "int32")
            target = ops.one_hot(indices, classes, dtype=y_pred.dtype)
        return keras.losses.categorical_crossentropy(
            target, y_pred, self.from_logits, self.label_smoothing
        )

    def get_config(self):
        """Returns the arguments, for saving."""
        return {
            **super().get_config(),
            "label_smoothing": self.label_smoothing,
            "from_logits": self.from_logits,
        }
