"""How far a run has come, what it shows meanwhile, and when it gives up."""

import math
from typing import Any

import keras

from keras_efficientnet.bars import Bar
from keras_efficientnet.errors import RunError


class StepCounter(keras.callbacks.Callback):
    """Counts the batches of a whole run, over epochs, stages and interruptions.

    Keras counts from 0 in each epoch, and reports several batches at once where
    `steps_per_execution` is above 1. Telling the counter of the same batch twice counts it once.

    Attributes:
        done: batches that the run has trained on.
    """

    def __init__(self):
        super().__init__()
        self.done = self._done_in_epoch = 0

    def on_epoch_begin(self, epoch, logs=None):
        """Begins an epoch."""
        self._done_in_epoch = 0

    def on_train_batch_end(self, batch, logs=None):
        """Counts all batches since the last call."""
        self.done += batch + 1 - self._done_in_epoch
        self._done_in_epoch = batch + 1


class ProgressBar(keras.callbacks.Callback):
    """One bar on standard error for the whole run: images per second, time left, results.

    Args:
        counter: of the run's batches.
        epochs: of the whole run.
        images: that the run trains on in all its epochs.
        batch_size: images in a batch.
    """

    def __init__(self, counter: StepCounter, epochs: int, images: int, batch_size: int):
        super().__init__()
        self.counter, self.epochs, self.images = counter, epochs, images
        self.batch_size = batch_size
        self.bar: Any = None

    def on_train_begin(self, logs=None):
        """Opens the bar, once for all stages."""
        if self.bar is None:
            self.bar = Bar(
                total=self.images,
                initial=self.counter.done * self.batch_size,
                unit="img",
                unit_scale=True,
                dynamic_ncols=True,
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Names the epoch."""
        self.bar.set_description(f"Epoch {epoch + 1}/{self.epochs}", refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        self.bar.update(self.counter.done * self.batch_size - self.bar.n)

    def on_epoch_end(self, epoch, logs=None):
        """Shows the epoch's loss and metrics."""
        shown = {name: value for name, value in (logs or {}).items() if name != "val_loss"}
        names = sorted(shown, key=lambda name: (name != "loss", name.startswith("val_")))
        self.bar.set_postfix_str(
            ", ".join(f"{name.replace('_', ' ')} {shown[name]:.3f}" for name in names),
            refresh=False,
        )

    def close(self) -> None:
        """Ends the bar's line."""
        if self.bar is not None:
            self.bar.close()


class StopOnNaN(keras.callbacks.Callback):
    """Ends a run whose loss is no longer a finite number, naming the step.

    A batch's loss is read only when the next batch has been handed over, so that an
    accelerator never waits for it.

    Args:
        counter: of the run's batches.
    """

    def __init__(self, counter: StepCounter):
        super().__init__()
        self.counter = counter

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch."""
        self.epoch, self.last = epoch, (self.counter.done, None)

    def on_train_batch_end(self, batch, logs=None):
        """Checks the loss of the batch before, a mean over the epoch so far."""
        self._check()
        self.last = (self.counter.done, (logs or {}).get("loss"))

    def on_epoch_end(self, epoch, logs=None):
        """Checks the last batch."""
        self._check()

    def _check(self) -> None:
        step, loss = self.last
        if loss is not None and not math.isfinite(float(loss)):
            raise RunError(
                f"The loss became {float(loss)} in epoch {self.epoch + 1}, at step {step} of the "
                "run; use a lower --learning-rate."
            )
