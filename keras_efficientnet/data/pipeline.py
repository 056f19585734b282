"""From a data set to batches: augmented for training, centre-cropped for evaluation."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_efficientnet.data import images
from keras_efficientnet.data.augment import (
    MAX_MAGNITUDE,
    OP_PROBABILITY,
    auto_augment,
    cut_mix,
    mix_up,
    rand_augment,
)
from keras_efficientnet.data.crop import AREA_RANGE, random_resized_crop
from keras_efficientnet.data.dataset import Dataset, Examples
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.spec import Interpolation

POLICIES = ("none", "rand", "auto")
# A split is kept in memory as pixels; of a larger one, evenly spaced images are.
SPLIT_BYTES = 2 * 2**30


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented.

    Attributes:
        min_crop_area: smallest area of the random crop as a share of the image's, in (0, 1].
        policy: `"none"`, `"rand"` for RandAugment or `"auto"` for AutoAugment v0.
        num_layers: RandAugment's operations per image.
        magnitude: of RandAugment, see `augment.rand_augment`.
        op_probability: of RandAugment, see `augment.OP_PROBABILITY`.
        mixup_alpha: of MixUp's Beta distribution; 0 for no MixUp.
        cutmix_alpha: of CutMix's Beta distribution; 0 for no CutMix. With both, each batch
            gets one of them with equal probability.

    Raises:
        InputError: a value is out of its range.
    """

    min_crop_area: float = AREA_RANGE[0]
    policy: str = "none"
    num_layers: int = 2
    magnitude: float = 10.0
    op_probability: float = OP_PROBABILITY
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

    def __post_init__(self):
        """Refuses values outside their range."""
        for field, valid, accepted in (
            ("min_crop_area", 0 < self.min_crop_area <= 1, "above 0 and at most 1"),
            ("policy", self.policy in POLICIES, f"one of {', '.join(POLICIES)}"),
            ("num_layers", self.num_layers >= 0, "at least 0"),
            ("magnitude", 0 <= self.magnitude <= MAX_MAGNITUDE, f"from 0 to {MAX_MAGNITUDE}"),
            ("op_probability", 0 <= self.op_probability <= 1, "from 0 to 1"),
            ("mixup_alpha", 0 <= self.mixup_alpha < float("inf"), "at least 0"),
            ("cutmix_alpha", 0 <= self.cutmix_alpha < float("inf"), "at least 0"),
        ):
            require(valid, field, getattr(self, field), accepted)

    @property
    def mixes(self) -> bool:
        """Whether images are mixed, so that labels are distributions."""
        return bool(self.mixup_alpha or self.cutmix_alpha)


def training_batches(
    dataset: Dataset,
    size: int,
    batch_size: int,
    seed: int,
    *,
    start_step: int = 0,
    shard: tuple[int, int] = (0, 1),
    augmentation: Augmentation = Augmentation(),
) -> Any:
    """Makes an infinite stream of augmented batches, which can start at any step.

    Each image is randomly cropped, resized to a square, mirrored with probability 1/2 where
    the data set allows it, and augmented by the policy. Order and augmentation depend only on
    `seed` and the position in the stream, not on the number of threads. A batch may contain
    the end of one epoch and the beginning of the next.

    Args:
        dataset: its `train` images are used.
        size: side of the images in pixels.
        batch_size: images per batch of this process.
        seed: of order and augmentation.
        start_step: step to start at; its batches equal those of a stream from step 0. With
            `tfds:` data, the epoch's earlier images are read, though not decoded.
        shard: `(index, count)`: every step has `count * batch_size` images, and this process
            gets the `index`-th part of them. The parts together equal the batch of a single
            process; with MixUp and CutMix, if `batch_size` is even.
        augmentation: of the images.

    Returns:
        A `tf.data.Dataset` of uint8 `[batch, size, size, 3]` and int labels `[batch]`, or
        float32 label distributions `[batch, classes]` where images are mixed.

    Raises:
        InputError: an argument is out of its range.
    """
    index, count = shard
    require(size >= 3, "size", size, "at least 3")
    require(batch_size >= 1, "batch_size", batch_size, "at least 1")
    require(start_step >= 0, "start_step", start_step, "at least 0")
    require(0 <= index < count, "shard", shard, "(index, count) with 0 <= index < count")
    step_size = count * batch_size
    records, decode = dataset.train.stream(seed, start_step * step_size)
    stream: Any = tf.data.Dataset.zip(tf.data.Dataset.counter(start_step * step_size), records)
    if count > 1:
        stream = stream.filter(lambda position, _: position % step_size // batch_size == index)

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert
    def augment(position, record):
        image, orientation, label = decode(record)
        key = tf.stack([tf.constant(seed, tf.int64), position])
        return _augment(image, size, key, dataset.mirror, augmentation, orientation), label

    batches = stream.map(augment, tf.data.AUTOTUNE).batch(batch_size, drop_remainder=True)
    if not augmentation.mixes:
        return batches.prefetch(tf.data.AUTOTUNE)

    @tf.autograph.experimental.do_not_convert
    def mix(step, batch):
        pixels, labels = batch
        labels = tf.one_hot(labels, len(dataset.class_names))
        return _mix(pixels, labels, _batch_key(seed, step), augmentation, shard)

    steps = tf.data.Dataset.counter(start_step)
    batches = tf.data.Dataset.zip(steps, batches).map(mix, tf.data.AUTOTUNE)
    return batches.prefetch(tf.data.AUTOTUNE)


def augmented(
    dataset: Dataset,
    size: int,
    augmentation: Augmentation,
    *,
    images_shown: int = 4,
    copies: int = 6,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Augments some training images several times, for `plots.augmentation_samples`.

    Args:
        dataset: evenly spaced images of its `train` split are used.
        size: side in pixels.
        augmentation: of the images.
        images_shown: number of images.
        copies: augmented copies of each.
        seed: of the augmentation.

    Returns:
        The images as in evaluation, uint8 `[images, size, size, 3]`, and their copies, uint8
        `[images, copies, size, size, 3]`. MixUp and CutMix mix these images with each other.
    """
    chosen = spread(len(dataset.train), min(images_shown, len(dataset.train)))
    originals = [image for image, _ in dataset.train.some(chosen)]
    batches = []
    for copy in range(copies):
        keys = [tf.constant([seed, copy * len(chosen) + i], tf.int64) for i in range(len(chosen))]
        pixels = tf.stack(
            [
                _augment(np.asarray(image), size, key, dataset.mirror, augmentation)
                for image, key in zip(originals, keys, strict=True)
            ]
        )
        if augmentation.mixes:
            key = _batch_key(seed, copy)
            pixels, _ = _mix(pixels, tf.eye(len(chosen)), key, augmentation, (0, 1))
        batches.append(pixels.numpy())
    shown = [images.prepare(image, size, dataset.crop_fraction) for image in originals]
    return np.stack(shown), np.stack(batches, 1)


def _augment(image, size, key, mirror: bool, augmentation: Augmentation, orientation=1):
    image = random_resized_crop(image, size, key, mirror, augmentation.min_crop_area, orientation)
    if augmentation.policy == "rand":
        return rand_augment(
            image,
            key,
            augmentation.num_layers,
            augmentation.magnitude,
            augmentation.op_probability,
        )
    return auto_augment(image, key) if augmentation.policy == "auto" else image


def _batch_key(seed: int, step):
    """Returns a key that no image has, because positions are never negative."""
    return tf.stack([tf.constant(seed, tf.int64), -1 - tf.cast(step, tf.int64)])


def _mix(pixels, labels, key, augmentation: Augmentation, shard: tuple[int, int]):
    def mixed_up():
        return mix_up(pixels, labels, key, augmentation.mixup_alpha, shard)

    def cut_and_mixed():
        return cut_mix(pixels, labels, key, augmentation.cutmix_alpha, shard)

    if not augmentation.cutmix_alpha:
        return mixed_up()
    if not augmentation.mixup_alpha:
        return cut_and_mixed()
    key, coin = tf.unstack(tf.random.split(key, 2))
    return tf.cond(tf.random.stateless_uniform([], coin) < 0.5, mixed_up, cut_and_mixed)


def evaluation_arrays(
    examples: Examples,
    size: int,
    crop_fraction: float,
    limit: int,
    interpolation: Interpolation = "bicubic",
) -> tuple[np.ndarray, np.ndarray]:
    """Prepares images as in evaluation, in order.

    Args:
        examples: the images.
        size: side in pixels.
        crop_fraction: see `images.prepare`.
        limit: largest number of images; of a larger split, evenly spaced ones are taken.
        interpolation: see `images.prepare`.

    Returns:
        uint8 `[count, size, size, 3]` and int labels `[count]`.
    """
    count = min(len(examples), limit)
    if not count:
        raise InputError("There are no held-out images to evaluate on.")
    pixels, labels = [], []
    for image, label in examples.some(spread(len(examples), count)):
        pixels.append(images.prepare(image, size, crop_fraction, interpolation))
        labels.append(label)
    return np.stack(pixels), np.asarray(labels)


def split_arrays(dataset: Dataset, split: str, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Prepares the images of a split as in evaluation, as many as `SPLIT_BYTES` is for.

    Args:
        dataset: the images.
        split: `"train"`, `"val"` or `"test"`.
        size: side in pixels.

    Returns:
        As `evaluation_arrays`.
    """
    limit = max(1, SPLIT_BYTES // (3 * size**2))
    return evaluation_arrays(dataset.splits[split], size, dataset.crop_fraction, limit)


def spread(total: int, count: int) -> list[int]:
    """Returns `count` evenly spaced indices from 0 to `total - 1`, in ascending order."""
    return np.linspace(0, total - 1, count).round().astype(int).tolist()
