"""Classifies images with a model file of any format."""

import os
from pathlib import Path
from typing import Any

import numpy as np

from keras_efficientnet.data import images
from keras_efficientnet.deploy import runtime
from keras_efficientnet.deploy.metadata import ModelInfo, read_info
from keras_efficientnet.errors import InputError, reason


class Predictor:
    """A classifier loaded from a .keras file, a SavedModel folder or a .tflite file.

    Everything prediction needs comes from the file. One that was not written by this
    package has no class names; its classes are then called by their index.

    Attributes:
        info: what the file says about itself.

    Args:
        path: of the model.

    Raises:
        InputError: if the file is missing, damaged or of another kind.
    """

    info: ModelInfo

    def __init__(self, path: str | os.PathLike):
        path = Path(path)
        if not path.exists():
            raise InputError(f"Model {str(path)!r} does not exist.")
        info = read_info(path)
        try:
            self._runner = runtime.open_model(path)
        except Exception as error:  # each format's loader has error types of its own
            raise InputError(f"Cannot load model {str(path)!r}: {reason(error)}.") from error
        shape = self._runner.input_shape
        if len(shape) != 3 or shape[2] != 3:
            raise InputError(f"Model {str(path)!r} takes input {shape}, not RGB images.")
        self.info = info or ModelInfo(
            variant="unknown",
            class_names=(),
            image_size=shape[0] or 224,
            crop_fraction=images.PHOTO_CROP_FRACTION,
        )
        if shape[:2] != (None, None) and shape[:2] != (self.info.image_size,) * 2:
            raise InputError(f"Model {str(path)!r} takes {shape}, and says otherwise of itself.")

    def prepare(self, source: Any) -> np.ndarray:
        """Reads one image as in evaluation.

        Args:
            source: a path, the bytes of a file, a Pillow image or an array.

        Returns:
            uint8 `[size, size, 3]`.
        """
        image = images.read(source)
        return images.prepare(image, self.info.image_size, self.info.crop_fraction)

    def scores(self, prepared: np.ndarray) -> np.ndarray:
        """Runs the network on prepared images.

        Args:
            prepared: `[count, size, size, 3]` in 0-255.

        Returns:
            float32 `[count, classes]`.
        """
        return self._runner.run(prepared)

    def top(self, scores: np.ndarray, count: int = 5) -> list[tuple[str, float]]:
        """Returns the best classes of one row of scores, best first."""
        best = np.argsort(-scores, kind="stable")[:count]
        return [(self._label(int(index)), float(scores[index])) for index in best]

    def classify(self, source: Any, count: int = 5) -> list[tuple[str, float]]:
        """Returns the best classes of one image with their scores, best first."""
        return self.top(self.scores(self.prepare(source)[None])[0], count)

    def _label(self, index: int) -> str:
        names = self.info.class_names
        return names[index] if index < len(names) else f"class {index}"
