"""Calibration: the images of an export, which part of them does what, and ranges taken from them.

`CalibrationSet` alone decides which images give the ranges of tensors, rank what the search for
an int8 file could change, tell it when to stop, train under rounding, and judge. `RangeObserver`
is the rule by which a tensor's range follows from its values, in a file that is quantized after
training and in one that is trained under rounding.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from keras_efficientnet.data import images as image_files
from keras_efficientnet.data import pipeline
from keras_efficientnet.data.dataset import Dataset, Examples
from keras_efficientnet.errors import InputError
from keras_efficientnet.spec import Interpolation

# Number of images in each part, at most. The search ranks and counts on every candidate.
RANGE_IMAGES = 100
RANKING_IMAGES = 48
SEARCH_IMAGES = 500
TRAINING_IMAGES = 2000
GATE_IMAGES = 1000
# For want of any.
RANDOM_IMAGES = 16
# Fewer give doubtful ranges.
FEW_IMAGES = 32
_SEED = 0

# Values of a tensor that are kept of each image, and the share of them that a range may leave
# out at either end.
VALUES_PER_IMAGE = 512
TAIL = 1e-4
# A swish gives nearly nothing below the first, and a sigmoid is nearly 0 or 1 beyond the second,
# so that values there may as well be clipped.
SWISH_FLOOR = -6.0
SIGMOID_LIMIT = 8.0


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Images that an export calibrates with, and others that it judges by.

    The calibration images are shuffled once, by a fixed seed and so that any stretch of them has
    its share of every class; each part is a stretch. Parts overlap where images are few, and
    every part sees every class unless it has fewer images than there are classes. The gate's
    images are in no other part; where their labels are known, one half of them decides whether a
    file is put in place, and the other half gives the accuracy that is printed.

    Attributes:
        images: calibration images, prepared as in evaluation, `[count, size, size, channels]`
            in 0-255; training images.
        gate_images: others of the same shape, which nothing that makes a file sees.
        labels: class index of each calibration image `[count]`, or None if not known.
        gate_labels: of each gate image, in the order of the model's outputs, or None.
        compared_on: which kind of images the gate's are, for reports.
    """

    images: np.ndarray
    gate_images: np.ndarray
    labels: np.ndarray | None = None
    gate_labels: np.ndarray | None = None
    compared_on: str = "held-out images"

    @classmethod
    def from_dataset(
        cls,
        data: Dataset,
        image_size: int,
        crop_fraction: float,
        *,
        held_out: tuple[np.ndarray, np.ndarray] | None = None,
        class_names: tuple[str, ...] | None = None,
        training: bool = False,
        interpolation: Interpolation = "bicubic",
    ) -> "CalibrationSet":
        """Takes calibration images from the training split and the gate's from the held-out one.

        Args:
            data: labelled images. Where their labels are known without reading all of them, the
                calibration images are a stratified sample, else a random one.
            image_size: side of the prepared images in pixels.
            crop_fraction: see `data.images.prepare`.
            held_out: images and class indices for the gate, if they are prepared already; else
                up to `GATE_IMAGES` of the held-out split.
            class_names: of the model, in the order of its outputs, if these are not the data's.
                Gate images of classes that it does not name have no labels.
            training: whether images for quantization-aware fine-tuning are needed, which are
                many more.
            interpolation: see `data.images.prepare`.
        """
        count = SEARCH_IMAGES + (TRAINING_IMAGES if training else RANGE_IMAGES)
        images, labels = _prepared(data.train, count, image_size, crop_fraction, interpolation)
        gate_images, gate_labels = held_out or pipeline.evaluation_arrays(
            data.test, image_size, crop_fraction, GATE_IMAGES, interpolation
        )
        if class_names is not None:
            known = set(data.class_names) <= set(class_names)
            order = [class_names.index(name) for name in data.class_names] if known else []
            gate_labels = np.array(order)[gate_labels] if known else None
        return cls(images, gate_images, labels, gate_labels)

    @classmethod
    def from_array(cls, images: np.ndarray) -> "CalibrationSet":
        """Holds every fifth of some prepared images out; where there are fewer, none."""
        images = np.asarray(images)
        held_out = np.arange(len(images)) % 5 == 4
        if not held_out.any():
            return cls(images, images, compared_on="calibration images themselves")
        return cls(images[~held_out], images[held_out])

    @classmethod
    def of_random_pixels(cls, shape: tuple[int, ...]) -> "CalibrationSet":
        """Makes images of one shape to compare files on, and none to calibrate with."""
        pixels = np.random.default_rng(_SEED).integers(0, 256, (RANDOM_IMAGES, *shape), np.uint8)
        return cls(pixels[:0], pixels, compared_on="images of random pixels")

    @property
    def range_images(self) -> np.ndarray:
        """Those that ranges of tensors are taken from."""
        return self._part(slice(RANGE_IMAGES))

    @property
    def ranking_images(self) -> np.ndarray:
        """Those on which the search ranks what it could change."""
        return self._part(slice(RANKING_IMAGES))

    @property
    def search_images(self) -> np.ndarray:
        """Those on which the search counts agreement, to know when to stop."""
        return self._part(slice(-SEARCH_IMAGES, None))

    @property
    def training_images(self) -> np.ndarray:
        """Those that quantization-aware fine-tuning learns from."""
        many = len(self.images) >= 2 * SEARCH_IMAGES
        return self._part(slice(-SEARCH_IMAGES if many else None))

    @cached_property
    def deciding(self) -> np.ndarray:
        """Which of the gate's images decide, bool `[count]`: half of each class, or all of them.

        All do where there is one image, or no labels to give an accuracy by.
        """
        every = np.ones(len(self.gate_images), bool)
        if self.gate_labels is None or len(every) < 2:
            return every
        order = stratified_order(self.gate_labels)
        by_class = order[np.argsort(self.gate_labels[order], kind="stable")]
        every[by_class[1::2]] = False
        return every

    def check(self, shape: tuple[int, ...]) -> None:
        """Checks that the images fit a model.

        Args:
            shape: of one image, `(height, width, channels)`.

        Raises:
            InputError: if they are of another shape, no pixels in 0-255, or none.
        """
        for pixels in (self.images, self.gate_images):
            check_pixels(pixels, shape)
        if not len(self.gate_images):
            raise InputError("There are no images to calibrate with or to compare files on.")

    def doubts(self, classes: int) -> list[str]:
        """Returns sentences on why ranges from these images may be wrong.

        Args:
            classes: that the model tells apart.
        """
        doubts = []
        if len(self.images) < FEW_IMAGES:
            doubts.append(
                f"{len(self.images)} calibration images are few to take ranges from, and a "
                f"quantized file may be worse for it; {RANGE_IMAGES} or more are better."
            )
        if self.labels is not None and classes > 1 and len(np.unique(self.labels)) == 1:
            doubts.append(
                "All calibration images are of one class, and a quantized file may be worse for "
                "the others; name data with images of every class."
            )
        return doubts

    @cached_property
    def _order(self) -> np.ndarray:
        return stratified_order(self._classes)

    @property
    def _classes(self) -> np.ndarray:
        return np.zeros(len(self.images), int) if self.labels is None else self.labels

    def _part(self, stretch: slice) -> np.ndarray:
        chosen = self._order[stretch]
        classes, first = np.unique(self._classes, return_index=True)
        if len(classes) <= len(chosen):  # a class of one image is in one place of the order
            chosen = np.append(chosen, first[~np.isin(classes, self._classes[chosen])])
        return self.images[chosen]


def stratified_order(labels: np.ndarray) -> np.ndarray:
    """Shuffles images by a fixed seed so that every class is spread evenly over the order.

    Args:
        labels: class index of each image, `[count]`.

    Returns:
        The images' indices. Every class of two images or more has one among the first and one
        among the last, as many as there are classes.
    """
    rng = np.random.default_rng(_SEED)
    places = np.zeros(len(labels))
    for label in np.unique(labels):
        of_class = rng.permutation(np.flatnonzero(labels == label))
        places[of_class] = np.linspace(0, 1, len(of_class))
    return np.lexsort((rng.random(len(labels)), places))


def check_pixels(images: np.ndarray, shape: tuple[int, ...]) -> None:
    """Refuses images `[count, height, width, channels]` that a model cannot be calibrated with.

    Raises:
        InputError: if they are of another shape than `shape`, or no pixels in 0-255.
    """
    if images.shape[1:] != shape:
        raise InputError(
            f"Calibration images of shape {images.shape[1:]} do not fit a model that takes "
            f"{shape}; resize them (ke.data.images.prepare), or name a data set, whose images are "
            "resized for you."
        )
    if len(images) and not (np.min(images) >= 0 and np.max(images) <= 255):
        raise InputError("Calibration images must be pixels in 0-255, not normalized ones.")
    image_files.require_pixels(images, "calibration images")


def _prepared(
    examples: Examples, count: int, size: int, crop_fraction: float, interpolation: Interpolation
) -> tuple[np.ndarray, np.ndarray]:
    """Returns a sample of prepared images and their class indices."""
    labels = examples.known_labels
    order = stratified_order(np.zeros(len(examples), int) if labels is None else labels)
    chosen = np.sort(order[:count]).tolist()
    pixels, classes = [], []
    for image, label in examples.some(chosen):
        pixels.append(image_files.prepare(image, size, crop_fraction, interpolation))
        classes.append(label)
    return np.stack(pixels), np.asarray(classes)


class RangeObserver:
    """Keeps a sample of a tensor's values, and chooses the range that 8 bits cover.

    Args:
        read_by: `"swish"` or `"sigmoid"` if only such a function reads the tensor.
        whole: whether no value may lie outside, as of a network's input and output.
    """

    def __init__(self, read_by: str = "", whole: bool = False):
        self.read_by, self.whole = read_by, whole
        self.low, self.high = np.inf, -np.inf
        self._samples: list[np.ndarray] = []
        self._rng = np.random.default_rng(_SEED)

    def observe(self, values: np.ndarray) -> None:
        """Looks at the tensor's values, of any shape, for one image."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))
        values = values.ravel()
        if values.size > VALUES_PER_IMAGE:
            values = values[self._rng.integers(0, values.size, VALUES_PER_IMAGE)]
        self._samples.append(values.copy())

    def range(self, tail: float = TAIL) -> tuple[float, float]:
        """Returns the lowest and the highest value to cover; 0 lies between them.

        Args:
            tail: share of the values that may lie outside at either end.
        """
        low, high = self.low, self.high
        if not self.whole:
            low, high = np.quantile(np.concatenate(self._samples), [tail, 1 - tail])
        if self.read_by == "swish":
            low = max(low, SWISH_FLOOR)
        elif self.read_by == "sigmoid":
            low, high = max(low, -SIGMOID_LIMIT), min(high, SIGMOID_LIMIT)
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        return low, max(high, low + 1e-6)
