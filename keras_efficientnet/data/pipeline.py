"""From a data set to batches: augmented for training, exact for evaluation."""

from typing import Any

import numpy as np

from keras_efficientnet.data import images
from keras_efficientnet.data.sources import DataSet, Examples, in_threads
from keras_efficientnet.errors import InputError


from dataclasses import dataclass
@dataclass(frozen=True)
class Augmentation:
    min_crop_area: float = 0.08
    policy: str = "none"
    num_layers: int = 2
    magnitude: float = 10
    op_probability: float = 1.0
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0

def training_batches(
    dataset: DataSet, size: int, batch_size: int, seed: int, *, start_step=0, shard=(0,1), augmentation=Augmentation()
) -> Any:
    """Makes an endless stream of augmented batches.

    Every image is cut to a random rectangle, resized to a square, and mirrored half of
    the time where the data set allows. Each image's randomness depends on `seed` and on
    its place in the stream alone, so a seed gives the same batches whatever the number of
    threads.

    Args:
        dataset: its `train` images are used.
        size: side of the images in pixels.
        batch_size: images in a batch.
        seed: of order and augmentation.
        min_crop_area: smallest share of an image that a crop keeps, in (0, 1].

    Returns:
        A `tf.data.Dataset` of uint8 `[batch, size, size, 3]` and int labels
        `[batch]`.
    """
    min_crop_area=augmentation.min_crop_area
    import tensorflow as tf

    from keras_efficientnet.data.crop import random_resized_crop

    def augment(example, position):
        image, label = example
        key = tf.stack([tf.cast(seed, tf.int64), position])
        return random_resized_crop(image, size, key, dataset.mirror, min_crop_area), label

    stream = tf.data.Dataset.zip(dataset.train.shuffled(seed).repeat(), tf.data.Dataset.counter())
    return (
        stream.skip(start_step*batch_size).map(augment, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def evaluation_arrays(
    examples: Examples, size: int, crop_fraction: float, limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prepares images as in evaluation, in order.

    Args:
        examples: the images.
        size: side in pixels.
        crop_fraction: see `images.prepare`.
        limit: at most this many images, spread evenly over the split.

    Returns:
        uint8 `[count, size, size, 3]` and int labels `[count]`.
    """
    count = min(len(examples), limit)
    chosen = set(np.linspace(0, len(examples) - 1, count).round().astype(int).tolist())
    pixels, labels = [], []
    for index, (image, label) in enumerate(examples):
        if index in chosen:
            pixels.append(images.prepare(image, size, crop_fraction))
            labels.append(label)
    if not pixels:
        raise InputError("There are no held-out images to evaluate on.")
    return np.stack(pixels), np.asarray(labels)


def prepare_files(paths: list, size: int, crop_fraction: float) -> np.ndarray:
    """Reads image files, prepared as in evaluation: uint8 `[count, size, size, 3]`."""

    def prepare(path):
        return images.prepare(images.read(path), size, crop_fraction)

    return np.stack(list(in_threads(prepare, paths)))
