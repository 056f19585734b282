"""Optimizers: RMSprop as the paper's code ran it, and others with a rate for each layer."""

from collections.abc import Sequence
from typing import Any

import keras

from keras_efficientnet.errors import require

# Batch normalization's own weights; TPU main.py leaves them out of the L2 term.
NOT_DECAYED = ("gamma", "beta")


class _SchedulesCountSteps(keras.optimizers.Optimizer):
    """Lets a schedule count optimizer steps; Keras counts batches, even parts of a step."""

    def _get_current_learning_rate(self):
        if isinstance(self._learning_rate, keras.optimizers.schedules.LearningRateSchedule):
            return self._learning_rate(self.iterations)
        return super()._get_current_learning_rate()


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class RMSprop(_SchedulesCountSteps, keras.optimizers.RMSprop):
    """Keras' RMSprop with two options of TensorFlow 1's training: initial mean square and L2.

    With `gradient_accumulation_steps`, a schedule counts optimizer steps, not batches.

    With gradient `g`, weight `w`, mean square `s` and velocity `v`:

        g <- g + l2 * w                       (not for batch normalization)
        s <- rho * s + (1 - rho) * g ** 2
        v <- momentum * v + learning_rate * g / sqrt(s + epsilon)
        w <- w - v

    Args:
        learning_rate: a float or a schedule.
        rho: weight of the old mean square.
        momentum: weight of the old velocity.
        epsilon: added to the mean square, inside the square root.
        initial_mean_square: `s` before the first step. TensorFlow 1 began at 1, which makes
            the first steps smaller, and Keras at 0.
        l2: factor of the loss term `l2 / 2 * sum(w ** 2)`, whose gradient is added here. It
            passes through the mean square as in the paper's code, unlike `weight_decay`,
            and does not show in the reported loss.
        **kwargs: of `keras.optimizers.Optimizer`.

    Raises:
        InputError: if `initial_mean_square` or `l2` is negative.
    """

    def __init__(
        self,
        learning_rate: Any = 0.256,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        initial_mean_square: float = 0.0,
        l2: float = 0.0,
        name: str = "rmsprop",
        **kwargs: Any,
    ):
        super().__init__(
            learning_rate, rho=rho, momentum=momentum, epsilon=epsilon, name=name, **kwargs
        )
        for option, value in (("initial_mean_square", initial_mean_square), ("l2", l2)):
            require(value >= 0, option, value, "at least 0")
        self.initial_mean_square = initial_mean_square
        self.l2 = l2

    def build(self, var_list):
        """Creates the slots, one of each for every variable."""
        if not self.built:
            self._l2_applies = [variable.name not in NOT_DECAYED for variable in var_list]
        super().build(var_list)

    def add_optimizer_variables(self, trainable_variables, name, initializer: Any = "zeros"):
        """Creates one slot for every variable."""
        if name == "velocity":  # Keras' name of the mean square
            initializer = keras.initializers.Constant(self.initial_mean_square)
        return super().add_optimizer_variables(trainable_variables, name, initializer)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its slots."""
        if self.l2 and self._l2_applies[self._get_variable_index(variable)]:
            gradient = gradient + self.l2 * keras.ops.cast(variable, gradient.dtype)
        super().update_step(gradient, variable, learning_rate)

    def get_config(self):
        """Returns the arguments, for saving."""
        return {
            **super().get_config(),
            "initial_mean_square": self.initial_mean_square,
            "l2": self.l2,
        }


class _LayerwiseRates(_SchedulesCountSteps):
    """Gives an optimizer a share of its learning rate for each variable, and a brake.

    `rate_scale`, a variable, multiplies the whole learning rate, so that a run can cut it while
    the schedule goes on.
    """

    def __init__(self, *args: Any, rate_factors: Sequence[float] = (), **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.rate_factors = tuple(float(factor) for factor in rate_factors)
        self.rate_scale = keras.Variable(1.0, trainable=False, dtype="float32", name="rate_scale")

    def build(self, var_list):
        """Creates the slots."""
        count = len(self.rate_factors)
        accepted = f"one for each of {len(var_list)} trainable variables, or none"
        require(count in (0, len(var_list)), "rate_factors", count, accepted)
        super().build(var_list)

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its slots."""
        if self.rate_factors:
            learning_rate *= self.rate_factors[self._get_variable_index(variable)]
        super().update_step(gradient, variable, learning_rate)

    def _get_current_learning_rate(self):
        return super()._get_current_learning_rate() * keras.ops.cast(self.rate_scale, "float32")

    def get_config(self):
        """Returns the arguments, for saving."""
        return {**super().get_config(), "rate_factors": list(self.rate_factors)}


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class LayerwiseAdamW(_LayerwiseRates, keras.optimizers.AdamW):
    """AdamW whose learning rate is another for each variable.

    Args:
        *args: of `keras.optimizers.AdamW`.
        rate_factors: share of the learning rate for each trainable variable, in their order, such
            as `layer_rates` gives; empty for the whole rate everywhere. Weight decay is not
            scaled.
        **kwargs: of `keras.optimizers.AdamW`.

    Raises:
        InputError: if there are not as many factors as trainable variables.
    """


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class LayerwiseSGD(_LayerwiseRates, keras.optimizers.SGD):
    """SGD likewise; see `LayerwiseAdamW`."""


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class LayerwiseLion(_LayerwiseRates, keras.optimizers.Lion):
    """Lion likewise; see `LayerwiseAdamW`."""


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class LayerwiseRMSprop(_LayerwiseRates, RMSprop):
    """The paper's RMSprop likewise; see `LayerwiseAdamW`."""
