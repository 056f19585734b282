"""Classifies images with a model file of any format."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
from PIL import Image

from keras_efficientnet.data import images
from keras_efficientnet.data.threads import attempt, in_threads
from keras_efficientnet.deploy import runtime
from keras_efficientnet.deploy.tflite_check import try_in_child
from keras_efficientnet.description import ModelDescription, read_description
from keras_efficientnet.errors import InputError, reason, require


@dataclass(frozen=True)
class Prediction:
    """The best classes of one image, best first; iterates over `(label, score)` pairs.

    Attributes:
        labels: class names, or `class INDEX` if the model file has no names.
        scores: the network's outputs for these classes: probabilities unless its classifier
            has no activation.
    """

    labels: tuple[str, ...]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        """The best class."""
        return self.labels[0]

    @property
    def score(self) -> float:
        """The best class's score."""
        return self.scores[0]

    def __iter__(self) -> Iterator[tuple[str, float]]:
        return iter(zip(self.labels, self.scores, strict=True))

    def __len__(self) -> int:
        return len(self.labels)


class Predictor:
    """A classifier loaded from a model file; safe to use from several threads.

    Class names, image size and preprocessing come from the file. A file that was not written
    by this package has no class names; its classes are named by their index.

    Attributes:
        description: of the model.
        threads: number of threads used.

    Args:
        path: a .keras or .h5 file, a SavedModel folder, a .tflite or .onnx file. A float .tflite
            file is the fastest for single images on a CPU.
        threads: number of threads that decode images and run a .tflite or .onnx network; the
            number of available cores if None. TensorFlow has its own setting for the others.
        trust: open a .tflite file without having tried it in a child process first, which may end
            where this one may not (`tflite_check`). A file that was tried or exported here
            before is not tried again.
        image_size: side of the images in pixels, of a network that takes any. None for what the
            file says of itself, or where it says nothing, for its variant's, with a warning.

    Raises:
        InputError: if the file is missing, damaged or not an image classifier, or nothing says
            how large the images are.
    """

    description: ModelDescription
    threads: int

    def __init__(
        self,
        path: str | os.PathLike,
        threads: int | None = None,
        *,
        image_size: int | None = None,
        trust: bool = False,
    ):
        path = Path(path).expanduser()
        if not path.exists():
            raise InputError(f"Model {str(path)!r} does not exist.")
        require(threads is None or threads >= 1, "threads", threads, "at least 1")
        self.threads = threads or runtime.available_cores()
        description = read_description(path)
        try:
            if path.suffix == ".tflite" and not trust:
                try_in_child(path)
            self._runner = runtime.open_model(path, self.threads)
        except Exception as error:  # each format's loader has error types of its own
            raise InputError(f"Cannot load model {str(path)!r}: {reason(error)}.") from error
        shape = self._runner.input_shape
        if len(shape) != 3 or shape[2] != 3:
            raise InputError(f"Model {str(path)!r} takes input {shape}, not RGB images.")
        if len(self._runner.output_shape) != 1:
            raise InputError(
                f"Model {str(path)!r} gives {self._runner.output_shape} for an image, not one "
                "score for each class."
            )
        fields = {} if image_size is None else {"image_size": image_size}
        description = description or self._undescribed(path, fields)
        self.description = description.replaced(fields)
        if shape[:2] != (None, None) and shape[:2] != (self.description.image_size,) * 2:
            size = self.description.image_size
            other = f"image_size is {size}" if image_size else "says otherwise of itself"
            raise InputError(f"Model {str(path)!r} takes {shape}, and {other}.")

    def _undescribed(self, path: Path, fields: dict[str, int]) -> ModelDescription:
        """Describes a file that does not do so itself, with what its network shows."""
        # A .tflite file that does is run without Keras.
        from keras_efficientnet.deploy.exportable import described, structure_of_file, usual_size

        if self._runner.keras_model is not None:
            return described(self._runner.keras_model, fields)
        size = self._runner.input_shape[0] or fields.get("image_size")
        return ModelDescription(
            variant="unknown",
            class_names=(),
            image_size=size or usual_size(str(path), structure_of_file(path)),
            crop_fraction=images.PHOTO_CROP_FRACTION,
        )

    @overload
    def classify(
        self, source: str | os.PathLike | bytes | Image.Image, count: int = 5
    ) -> Prediction: ...

    @overload
    def classify(self, source: list | tuple, count: int = 5) -> list[Prediction]: ...

    @overload
    def classify(self, source: np.ndarray, count: int = 5) -> Any: ...

    def classify(self, source, count=5):
        """Classifies one image or several, resized and cropped as in evaluation.

        Args:
            source: a path, the bytes of an image file, a Pillow image, or an array
                `[height, width]` or `[height, width, channels]` with values in 0-255; or
                several: a list of those or an array `[count, height, width, channels]`.
            count: how many of the best classes to give.

        Returns:
            A `Prediction`, or a list of them for several images.

        Raises:
            InputError: if an image cannot be read.
        """
        several = isinstance(source, list | tuple) or getattr(source, "ndim", 0) == 4
        if not several:
            return self.top(self.scores(self.prepare(source)[None])[0], count)
        answers = []
        for index, (_, answer) in enumerate(self.stream(source, count)):
            if isinstance(answer, InputError):
                raise InputError(f"Image {index} of {len(source)}: {answer}") from answer
            answers.append(answer)
        return answers

    def stream(
        self, sources: Iterable, count: int = 5
    ) -> Iterator[tuple[Any, Prediction | InputError]]:
        """Classifies any number of images in constant memory.

        Args:
            sources: what `classify` takes for one image.
            count: how many of the best classes to give.

        Yields:
            Each source, in order, with its `Prediction`, or with the `InputError` that says
            why it cannot be read.
        """
        sources = iter(sources)
        while group := list(islice(sources, runtime.BATCH_SIZE)):
            prepared = list(in_threads(partial(attempt, self.prepare), group, self.threads))
            good = [pixels for pixels in prepared if not isinstance(pixels, InputError)]
            scores = iter(self.scores(np.stack(good)) if good else ())
            for source, pixels in zip(group, prepared, strict=True):
                if isinstance(pixels, InputError):
                    yield source, pixels
                else:
                    yield source, self.top(next(scores), count)

    @property
    def keras_model(self) -> Any:
        """The `keras.Model` of a .keras file; None of a file of another format."""
        return self._runner.keras_model

    def prepare(self, source: Any) -> np.ndarray:
        """Reads one image as in evaluation.

        Args:
            source: see `classify`.

        Returns:
            uint8 `[size, size, 3]`.

        Raises:
            InputError: if it is not an image that can be read.
        """
        if not isinstance(source, str | os.PathLike | bytes | Image.Image | np.ndarray):
            raise InputError(
                f"An image given as {type(source).__name__} cannot be read; a path, bytes, a "
                "Pillow image or a NumPy array can."
            )
        image = images.read(source, self.description.pixel_range)
        return images.prepare(
            image,
            self.description.image_size,
            self.description.crop_fraction,
            self.description.interpolation,
        )

    def scores(self, prepared: np.ndarray) -> np.ndarray:
        """Runs the network on prepared images.

        Args:
            prepared: `[count, size, size, 3]` in 0-255.

        Returns:
            float32 `[count, classes]`.

        Raises:
            InputError: if the images have another shape, or the model file turns out to be
                damaged.
        """
        expected = (self.description.image_size, self.description.image_size, 3)
        if not len(prepared) or prepared.shape[1:] != expected:
            raise InputError(
                f"Prepared images of shape {prepared.shape} cannot be used; at least one, each "
                f"{expected}, can."
            )
        images.require_pixels(prepared, "prepared images")
        try:
            return self._runner.run(self.description.network_input(prepared))
        except MemoryError:
            raise
        except Exception as error:  # each runtime has error types of its own
            raise InputError(f"The model cannot be run: {reason(error)}.") from error

    def top(self, scores: np.ndarray, count: int = 5) -> Prediction:
        """Returns the best classes of one row of scores `[classes]`."""
        require(count >= 1, "count", count, "at least 1")
        best = np.argsort(-scores, kind="stable")[:count].tolist()
        return Prediction(
            tuple(self.description.label(index) for index in best),
            tuple(float(scores[index]) for index in best),
        )
