"""Compares exported files with the model by numbers, and decides whether they may be used.

Each file is reloaded by a fresh interpreter.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_efficientnet.deploy import runtime, tflite_check
from keras_efficientnet.deploy.export_report import GateError
from keras_efficientnet.deploy.fresh_interpreter import run_program
from keras_efficientnet.errors import RunError
from keras_efficientnet.task import SINGLE_LABEL, Task

# Share of the outputs' range that a float32 file may be off: runtimes add up in other orders.
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """How a file's outputs compare with the model's.

    Attributes:
        agreement: share of the images on which both decide alike; None of features.
        max_abs_difference: of any output.
        accuracy: share of the images that the file classifies rightly; None without labels.
    """

    agreement: float | None
    max_abs_difference: float
    accuracy: float | None


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
    with tempfile.TemporaryDirectory() as folder:
        images_path, outputs_path = Path(folder, "images.npy"), Path(folder, "outputs.npy")
        np.save(images_path, images)
        run_program(["-P", runtime.__file__, path, images_path, outputs_path])
        outputs = np.load(outputs_path)
    if path.suffix == ".tflite":
        tflite_check.remember(path)
    return Comparison(
        agreement=float(task.agree(outputs, expected).mean()) if expected.ndim == 2 else None,
        max_abs_difference=float(np.abs(outputs - expected).max()),
        accuracy=None if labels is None else float(task.correct(outputs, labels).mean()),
    )


@dataclass(frozen=True, eq=False)
class Gate:
    """Images that nothing which makes a file has seen, and what is asked of files on them.

    Attributes:
        images: as the network takes them, `[count, height, width, channels]`.
        expected: what the model gives for them.
        labels: class indices `[count]`, or None.
        task: what a label is.
        min_agreement: share of the images on which an int8 file must decide as the model does.
    """

    images: np.ndarray
    expected: np.ndarray
    labels: np.ndarray | None
    task: Task
    min_agreement: float

    def judge(self, path: Path, number_format: str) -> Comparison:
        """Compares a file with the model, and refuses it if it is not good enough.

        Raises:
            RunError: if the file does not run, or if it computes in float32 and gives other
                outputs than the model.
            GateError: if it is an int8 file and agrees on too few images.
        """
        found = verify(path, self.expected, self.images, self.labels, self.task)
        limit = TOLERANCE * max(np.ptp(self.expected), 1e-3)
        # Not "greater than", which a difference that is no number is not either.
        if number_format == "float32" and not found.max_abs_difference <= limit:
            raise RunError(
                "The file gives other outputs than the model, by up to "
                f"{found.max_abs_difference:.1e}."
            )
        agreement = 1.0 if found.agreement is None else found.agreement
        if number_format == "int8" and agreement < self.min_agreement:
            raise GateError(
                f"The int8 file agrees with the model on {agreement:.1%} of "
                f"{len(self.images)} images that it was not made with, and "
                f"{self.min_agreement:.1%} are asked for; use the float file, pass more "
                "calibration images, fine-tune with --qat-epochs, or lower --min-agreement."
            )
        return found
