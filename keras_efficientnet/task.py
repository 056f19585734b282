"""What a label is, and all that follows from it: head, loss, metrics, decisions, agreement.

Data sets, recipes, model descriptions, the export's gate and reports have a `Task` and ask it;
none of them compares its name.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

from keras_efficientnet.errors import InputError

TOP = 5
"""Classes among which the right one counts for top-5 accuracy."""


class Task(Protocol):
    """One kind of label.

    Attributes:
        name: as model descriptions and reports store it.
        classifier_activation: of the last layer, as the builders take it.
    """

    name: str
    classifier_activation: str

    def loss(self, label_smoothing: float, from_logits: bool) -> Any:
        """Returns the Keras loss to train with.

        Args:
            label_smoothing: share of the target spread evenly over all classes, in [0, 1).
            from_logits: whether the model ends in logits rather than probabilities.
        """
        ...

    def metrics(self) -> list[Any]:
        """Returns what Keras reports beside the loss."""
        ...

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Returns the decision on each image, from scores `[count, classes]`."""
        ...

    def correct(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns whether the decision on each image is right, bool `[count]`."""
        ...

    def agree(self, scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Returns whether two models decide alike on each image, bool `[count]`."""
        ...

    def measure(self, scores: np.ndarray, labels: np.ndarray) -> Mapping[str, np.ndarray]:
        """Returns what an evaluation averages over images: by name, `[count]` each."""
        ...


class SingleLabel:
    """Exactly one class is right, and the one with the best score is the answer."""

    name = "single-label"
    classifier_activation = "softmax"

    def loss(self, label_smoothing: float, from_logits: bool) -> Any:
        """See `Task.loss`: cross-entropy."""
        from keras_efficientnet.losses import SmoothedCrossentropy

        return SmoothedCrossentropy(label_smoothing, from_logits=from_logits)

    def metrics(self) -> list[Any]:
        """See `Task.metrics`: accuracy."""
        from keras_efficientnet.losses import accuracy

        return [accuracy]

    def decide(self, scores: np.ndarray) -> np.ndarray:
        """Returns the index of the best class, int `[count]`; the first of equal scores wins."""
        return np.asarray(scores).argmax(-1)

    def correct(self, scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Returns whether the best class is the label (a class index), bool `[count]`."""
        return self.decide(scores) == labels

    def agree(self, scores: np.ndarray, reference: np.ndarray) -> np.ndarray:
        """Returns whether both name the same class first, bool `[count]`."""
        return self.decide(scores) == self.decide(reference)

    def measure(self, scores: np.ndarray, labels: np.ndarray) -> Mapping[str, np.ndarray]:
        """See `Task.measure`: `accuracy`, and `top5_accuracy` of more than five classes."""
        measures = {"accuracy": self.correct(scores, labels)}
        if scores.shape[-1] > TOP:
            # Stable, so that of equal scores the first class wins, as in `decide`.
            best = np.argsort(-scores, axis=-1, kind="stable")[:, :TOP]
            measures["top5_accuracy"] = (best == labels[:, None]).any(-1)
        return measures


SINGLE_LABEL = SingleLabel()
TASKS: dict[str, Task] = {task.name: task for task in (SINGLE_LABEL,)}


def get_task(name: str) -> Task:
    """Returns a task by its name.

    Raises:
        InputError: if the name is unknown.
    """
    if name not in TASKS:
        raise InputError(f"Unknown task {name!r}; choose {', '.join(TASKS)}.")
    return TASKS[name]
