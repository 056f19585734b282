"""Checks exported files by numbers: each is reloaded by a fresh interpreter."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from keras_efficientnet.deploy import runtime


def verify(
    artifacts: Mapping[str, Path], reference: str, images: np.ndarray, labels: np.ndarray | None
) -> dict[str, dict[str, float]]:
    """Runs every file on the same images and compares the results.

    Args:
        artifacts: name and path of each file.
        reference: name of the one that the others are compared with.
        images: prepared images `[count, height, width, channels]` in 0-255.
        labels: class indices `[count]`, or None where they are not known.

    Returns:
        Three maps over the artifacts' names: `test_accuracy` (only with labels),
        `agreement`, the share of images with the reference's top-1, and
        `max_abs_difference` of the scores.

    Raises:
        RuntimeError: if a file cannot be loaded and run; the message holds the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        images_path = Path(folder, "images.npy")
        np.save(images_path, images)
        scores = {name: _run_fresh(path, images_path) for name, path in artifacts.items()}
    expected = scores[reference]
    report = {
        "agreement": {
            name: float(np.mean(values.argmax(1) == expected.argmax(1)))
            for name, values in scores.items()
        },
        "max_abs_difference": {
            name: float(np.abs(values - expected).max()) for name, values in scores.items()
        },
    }
    if labels is not None:
        report["test_accuracy"] = {
            name: float(np.mean(values.argmax(1) == labels)) for name, values in scores.items()
        }
    return report


def _run_fresh(model_path: Path, images_path: Path) -> np.ndarray:
    outputs_path = images_path.with_name("outputs.npy")
    command = [sys.executable, runtime.__file__, model_path, images_path, outputs_path]
    child = subprocess.run(
        command,
        capture_output=True,
        text=True,
        errors="replace",
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if child.returncode:
        raise RuntimeError(f"{model_path} does not run after export:\n{child.stderr}")
    return np.load(outputs_path)
