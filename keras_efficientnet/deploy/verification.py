"""Checks exported files by numbers: each is reloaded by a fresh interpreter."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from keras_efficientnet.deploy import runtime


def verify(
    artifacts: Mapping[str, Path],
    expected: np.ndarray,
    images: np.ndarray,
    labels: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Runs files on images and compares the results with the model's.

    Args:
        artifacts: name and path of each file.
        expected: what the model itself gives, `[count, classes]` or features of any shape.
        images: `[count, height, width, channels]` as the network takes them.
        labels: class indices `[count]`, or None where they are not known.

    Returns:
        Maps over the artifacts' names: `agreement`, the share of images with the model's
        top-1 (only for scores), `max_abs_difference` of the outputs, and `test_accuracy`
        (only with labels).

    Raises:
        RuntimeError: if a file cannot be loaded and run; the message holds the reason.
    """
    with tempfile.TemporaryDirectory() as folder:
        images_path = Path(folder, "images.npy")
        np.save(images_path, images)
        outputs = {name: _run_fresh(path, images_path) for name, path in artifacts.items()}
    report: dict[str, Any] = {}
    if expected.ndim == 2:
        report["agreement"] = {
            name: float(np.mean(values.argmax(1) == expected.argmax(1)))
            for name, values in outputs.items()
        }
    report["max_abs_difference"] = {
        name: float(np.abs(values - expected).max()) for name, values in outputs.items()
    }
    if labels is not None:
        report["test_accuracy"] = {
            name: float(np.mean(values.argmax(1) == labels)) for name, values in outputs.items()
        }
    return report


def _run_fresh(model_path: Path, images_path: Path) -> np.ndarray:
    outputs_path = images_path.with_name("outputs.npy")
    command = [sys.executable, "-P", runtime.__file__, model_path, images_path, outputs_path]
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
