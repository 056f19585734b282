"""The loss and the metric of one label per image; both take class indices or distributions."""

import keras
from keras import ops


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


@keras.saving.register_keras_serializable(package="keras_efficientnet")
def accuracy(y_true, y_pred):
    """Returns whether each example's top-1 is right, float `[batch]`.

    Keras' `"accuracy"` settles on class indices or distributions at the first batch; here
    either may come at any time, as mixup begins in a later stage.
    """
    if len(y_true.shape) == len(y_pred.shape) and y_true.shape[-1] == y_pred.shape[-1]:
        y_true = ops.argmax(y_true, axis=-1)
    y_true = ops.cast(ops.reshape(y_true, (-1,)), "int32")
    return ops.cast(ops.equal(y_true, ops.cast(ops.argmax(y_pred, axis=-1), "int32")), "float32")
