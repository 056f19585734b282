"""What a run shows while it goes, and when it gives up."""

import math
import sys
from typing import Any

import keras
from tqdm import tqdm

from keras_efficientnet.errors import InputError


class ProgressBar(keras.callbacks.Callback):
    """One bar on standard error for the whole run: images per second, time left, results.

    Args:
        epochs: of the whole run.
        images: that the run looks at in all.
        seen: images that an earlier part of the run has looked at.
        batch_size: images in a batch.
    """

    def __init__(self, epochs: int, images: int, seen: int, batch_size: int):
        super().__init__()
        self.epochs, self.images, self.seen, self.batch_size = epochs, images, seen, batch_size
        self.bar: Any = None

    def on_train_begin(self, logs=None):
        """Opens the bar, once for all stages."""
        if self.bar is None:
            # A log file wants a line now and then, a terminal a bar that moves.
            seconds = 0.1 if sys.stderr.isatty() else 10
            self.bar = tqdm(
                total=self.images,
                initial=self.seen,
                unit="img",
                unit_scale=True,
                dynamic_ncols=True,
                mininterval=seconds,
            )

    def on_epoch_begin(self, epoch, logs=None):
        """Names the epoch."""
        self.batch = -1
        self.bar.set_description(f"Epoch {epoch + 1}/{self.epochs}", refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        self.bar.update(self.batch_size * (batch - self.batch))
        self.batch = batch

    def on_epoch_end(self, epoch, logs=None):
        """Shows the epoch's results."""
        logs = logs or {}
        self.bar.set_postfix_str(
            ", ".join(
                f"{title} {logs[name]:.3f}"
                for name, title in (
                    ("loss", "loss"),
                    ("accuracy", "acc"),
                    ("val_accuracy", "val acc"),
                )
                if name in logs
            ),
            refresh=False,
        )

    def close(self) -> None:
        """Ends the bar's line."""
        if self.bar is not None:
            self.bar.close()


class StopOnNaN(keras.callbacks.Callback):
    """Ends a run whose loss is no longer a finite number, naming the step.

    A batch's loss is looked at when the next batch has been handed over, so that an
    accelerator never waits for it.
    """

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch."""
        self.epoch, self.last = epoch, None

    def on_train_batch_end(self, batch, logs=None):
        """Checks the loss of the batch before, a mean over the epoch so far."""
        self._check()
        self.last = (batch, (logs or {}).get("loss"))

    def on_epoch_end(self, epoch, logs=None):
        """Checks the last batch."""
        self._check()

    def _check(self) -> None:
        if self.last is None or self.last[1] is None:
            return
        batch, loss = self.last[0], float(self.last[1])
        if not math.isfinite(loss):
            raise InputError(
                f"The loss became {loss} in epoch {self.epoch + 1}, step {batch + 1}; "
                "use a lower --learning-rate."
            )
