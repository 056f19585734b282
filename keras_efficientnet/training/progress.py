"""What a run shows while it goes, and when it gives up."""

import math
import sys

import keras
from tqdm import tqdm

from keras_efficientnet.errors import InputError


class ProgressBar(keras.callbacks.Callback):
    """One bar on standard error for the whole run: images per second, time left, results.

    It also adds the learning rate to each epoch's logs.

    Args:
        batch_size: images in a step.
        steps_per_epoch: batches in an epoch.
    """

    def __init__(self, batch_size: int, steps_per_epoch: int):
        super().__init__()
        self.batch_size, self.steps_per_epoch = batch_size, steps_per_epoch
        self.results = ""

    def on_train_begin(self, logs=None):
        """Opens the bar."""
        total = self.params["epochs"] * self.steps_per_epoch * self.batch_size
        # A log file wants a line now and then, a terminal a bar that moves.
        seconds = 0.1 if sys.stderr.isatty() else 10
        self.bar = tqdm(
            total=total, unit="img", unit_scale=True, dynamic_ncols=True, mininterval=seconds
        )

    def on_epoch_begin(self, epoch, logs=None):
        """Names the epoch."""
        self.bar.set_description(f"Epoch {epoch + 1}/{self.params['epochs']}", refresh=False)

    def on_train_batch_end(self, batch, logs=None):
        """Moves the bar."""
        self.bar.update(self.batch_size)

    def on_epoch_end(self, epoch, logs=None):
        """Shows the epoch's results."""
        logs = {} if logs is None else logs
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
        logs["learning_rate"] = float(
            keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        )

    def on_train_end(self, logs=None):
        """Closes the bar."""
        self.bar.close()


class StopOnNaN(keras.callbacks.Callback):
    """Ends a run whose loss is no longer a finite number, naming the step."""

    def on_epoch_begin(self, epoch, logs=None):
        """Remembers the epoch."""
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        """Checks the loss, a mean over the epoch so far."""
        loss = (logs or {}).get("loss")
        if loss is not None and not math.isfinite(loss):
            raise InputError(
                f"The loss became {loss} in epoch {self.epoch + 1}, step {batch + 1}; "
                "use a lower --learning-rate."
            )
