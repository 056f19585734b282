"""Compares exported files with the model by numbers, and decides whether they may be used.

Each file is reloaded by a fresh interpreter.
"""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np

from keras_efficientnet.deploy import runtime, tflite_check
from keras_efficientnet.deploy.export_report import GateError
from keras_efficientnet.deploy.fresh_interpreter import run_program
from keras_efficientnet.deploy.significance import (
    MIN_CLASS_IMAGES,
    AccuracyChange,
    ClassAgreement,
    Interval,
    accuracy_change,
    by_class,
    wilson,
    worse_classes,
)
from keras_efficientnet.errors import RunError
from keras_efficientnet.task import SINGLE_LABEL, Task

# Share of the outputs' range that a float32 file may be off: runtimes add up in other orders.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """How a file's outputs compare with the model's.

    Attributes:
        max_abs_difference: of any output.
        agreement: share of the deciding images on which both decide alike; None of features.
        agreement_interval: its interval.
        accuracy: share of the other images that the file classifies rightly; None without labels.
        accuracy_interval: its interval.
        accuracy_change: against the model, on the same images.
        unjudged_classes: number of classes with too few deciding images for a verdict.
    """

    max_abs_difference: float
    agreement: float | None = None
    agreement_interval: Interval | None = None
    accuracy: float | None = None
    accuracy_interval: Interval | None = None
    accuracy_change: AccuracyChange | None = None
    unjudged_classes: int = 0


def outputs_of(path: Path, images: np.ndarray) -> np.ndarray:
    """Runs a model file on images in a fresh interpreter.

    Args:
        path: of the file.
        images: `[count, height, width, channels]` as the network takes them.

    Raises:
        RunError: if the file cannot be loaded and run; the message says why.
    """
    with tempfile.TemporaryDirectory() as folder:
        images_path, outputs_path = Path(folder, "images.npy"), Path(folder, "outputs.npy")
        np.save(images_path, images)
        run_program(["-P", runtime.__file__, path, images_path, outputs_path])
        outputs = np.load(outputs_path)
    if path.suffix == ".tflite":
        tflite_check.remember(path)
    return outputs


def verify(
    path: Path,
    expected: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray | None = None,
    task: Task = SINGLE_LABEL,
) -> Comparison:
    """Runs a model file on images in a fresh interpreter and compares it with the model.

    Args:
        path: of the file.
        expected: what the model itself gives, `[count, classes]` or features of any shape.
        images: `[count, height, width, channels]` as the network takes them.
        labels: class indices `[count]`, or None where they are not known.
        task: what a label is.

    Raises:
        RunError: if the file cannot be loaded and run; the message says why.
    """
    every = np.ones(len(images), bool)
    return Gate(images, expected, every, task, 0.0, labels).compare(outputs_of(path, images))


@dataclass(frozen=True, eq=False)
class Gate:
    """Images that nothing which makes a file has seen, and what is asked of files on them.

    Attributes:
        images: as the network takes them, `[count, height, width, channels]`.
        expected: what the model gives for them, `[count, classes]` or features of any shape.
        deciding: which of the images decide, bool `[count]`; the others give the accuracy.
        task: what a label is.
        min_agreement: share of the deciding images on which a quantized file must decide as the
            model does, of all and of each class.
        labels: class indices `[count]`, or None.
        class_names: in the order of the outputs, for messages; may be empty.
        strict: whether the lower end of the agreement's interval has to reach that share.
        compared_on: which kind of images these are, for messages.
    """

    images: np.ndarray
    expected: np.ndarray
    deciding: np.ndarray
    task: Task
    min_agreement: float
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    strict: bool = False
    compared_on: str = "held-out images"

    def judge(self, path: Path, number_format: str) -> Comparison:
        """Runs a file in a fresh interpreter, and refuses it if it is not good enough.

        Raises:
            RunError: if the file does not run, or as `decide` does.
            GateError: likewise.
        """
        return self.decide(outputs_of(path, self.images), number_format)

    def decide(self, outputs: np.ndarray, number_format: str) -> Comparison:
        """Compares a file's outputs for the images with the model's, and refuses poor ones.

        Raises:
            RunError: if outputs are no numbers, or a float32 file's other ones than the model's.
            GateError: if a quantized file agrees on too few images, of all or of a class.
        """
        if not np.isfinite(outputs).all():
            raise RunError("The file gives outputs that are no numbers.")
        found = self.compare(outputs)
        limit = TOLERANCE * max(np.ptp(self.expected), 1e-3)
        if number_format == "float32" and found.max_abs_difference > limit:
            raise RunError(
                "The file gives other outputs than the model, by up to "
                f"{found.max_abs_difference:.1e}."
            )
        if number_format == "float32" or found.agreement is None:
            return found
        assert found.agreement_interval
        judged = found.agreement_interval.low if self.strict else found.agreement
        if judged < self.min_agreement:
            self._refuse(
                f"The {number_format} file agrees with the model on {found.agreement:.1%} "
                f"(95% interval from {found.agreement_interval.low:.1%}) of "
                f"{self.deciding.sum()} {self.compared_on} that it was not made with"
            )
        classes = self._by_class(outputs)
        if worse := worse_classes(classes, self.min_agreement):
            named = ", ".join(
                f"{each.agreeing} of {each.images} of {self._name(each.index)}" for each in worse
            )
            self._refuse(
                f"The {number_format} file agrees with the model on {found.agreement:.1%} of "
                f"{self.deciding.sum()} {self.compared_on}, but only on {named}"
            )
        unjudged = sum(each.images < MIN_CLASS_IMAGES for each in classes)
        return replace(found, unjudged_classes=unjudged)

    def compare(self, outputs: np.ndarray) -> Comparison:
        """Compares a file's outputs for the images with the model's."""
        found = Comparison(float(np.abs(outputs - self.expected).max()))
        if self.expected.ndim != 2:
            return found
        agree = self.task.agree(outputs, self.expected)[self.deciding]
        found = replace(
            found,
            agreement=float(agree.mean()),
            agreement_interval=wilson(int(agree.sum()), len(agree)),
        )
        if self.labels is None:
            return found
        others = reporting(self.deciding)
        before, after = (
            self.task.correct(scores, self.labels)[others] for scores in (self.expected, outputs)
        )
        return replace(
            found,
            accuracy=float(after.mean()),
            accuracy_interval=wilson(int(after.sum()), len(after)),
            accuracy_change=accuracy_change(before, after),
        )

    def _by_class(self, outputs: np.ndarray) -> list[ClassAgreement]:
        """Counts agreement by the class of the images, as the model names it without labels."""
        classes = self.task.decide(self.expected) if self.labels is None else self.labels
        agree = self.task.agree(outputs, self.expected)
        return by_class(classes[self.deciding], agree[self.deciding])

    def _name(self, index: int) -> str:
        return repr(self.class_names[index]) if self.class_names else f"class {index}"

    def _refuse(self, what: str) -> NoReturn:
        raise GateError(
            f"{what}, and {self.min_agreement:.1%} are asked for; use the float file, pass more "
            "calibration images, fine-tune with --qat-epochs (int8), or lower --min-agreement."
        )


def reporting(deciding: np.ndarray) -> np.ndarray:
    """Returns which images give the accuracy: those that do not decide, or all if there are none.

    Args:
        deciding: bool `[count]`.
    """
    return deciding if deciding.all() else ~deciding
