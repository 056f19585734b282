"""The learning-rate schedule: a pure function of the step."""

import keras
from keras import ops

from keras_efficientnet.errors import require


@keras.saving.register_keras_serializable(package="keras_efficientnet")
class WarmupExponentialDecay(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up, then exponential decay in steps (TPU code, `utils.py`).

    At step `s` the rate is `peak * s / warmup_steps` while `s < warmup_steps`, and
    `peak * decay_rate ** floor(s / decay_steps)` from then on. The decay counts from step
    0, not from the end of the warm-up.

    Args:
        peak: learning rate that warm-up rises to, above 0.
        warmup_steps: steps of the warm-up; 0 for none.
        decay_steps: steps between two decays, above 0; need not be a whole number.
        decay_rate: factor of one decay, above 0 and at most 1.

    Raises:
        InputError: if a value is out of range.
    """

    def __init__(
        self, peak: float, warmup_steps: float, decay_steps: float, decay_rate: float = 0.97
    ):
        require(peak > 0, "peak", peak, "above 0")
        require(warmup_steps >= 0, "warmup_steps", warmup_steps, "at least 0")
        require(decay_steps > 0, "decay_steps", decay_steps, "above 0")
        require(0 < decay_rate <= 1, "decay_rate", decay_rate, "above 0 and at most 1")
        self.peak = peak
        self.warmup_steps = warmup_steps
        self.decay_steps = decay_steps
        self.decay_rate = decay_rate

    def __call__(self, step):
        """Returns the learning rate, a float32 scalar, at a step counted from 0."""
        step = ops.cast(step, "float32")
        decays = ops.floor(step / self.decay_steps)
        decayed = self.peak * ops.power(ops.cast(self.decay_rate, "float32"), decays)
        if not self.warmup_steps:
            return decayed
        warming = self.peak * step / self.warmup_steps
        return ops.where(step < self.warmup_steps, warming, decayed)

    def get_config(self):
        """Returns the arguments, for saving."""
        return {
            "peak": self.peak,
            "warmup_steps": self.warmup_steps,
            "decay_steps": self.decay_steps,
            "decay_rate": self.decay_rate,
        }
