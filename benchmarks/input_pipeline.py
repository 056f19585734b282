"""Images per second of augmentation, beside its peers in the same run.

    python benchmarks/input_pipeline.py --images shared/data/flowers --json figures.json

Every repetition measures each pipeline once, and ratios are taken within a repetition, so
that other work on the machine slows both sides alike. On a machine that others use
too, images per second of this process's CPU time tell more than images per second.

"All applied" is RandAugment with `op_probability=1`: as many operations per image as the
peers apply. "Training" is `training_batches`, the stream that training reads: shuffled
files, random crop and flip, and what is named.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import keras_cv
import numpy as np
import tensorflow as tf
from peers import CLOCKS, parse, report, row
from PIL import Image
from sklearn.datasets import load_sample_images
from tqdm import trange

from keras_efficientnet.data.augment import auto_augment, rand_augment
from keras_efficientnet.data.dataset import Dataset, FileExamples, ImageFile
from keras_efficientnet.data.pipeline import Augmentation, training_batches

PACKAGES = ("tensorflow", "keras", "keras-cv")
SIZE = 224
BATCH = 32
LAYERS = 2

# Ours, the peer, and the ratio to reach.
RATIOS = (
    ("RandAugment, all applied", "keras_cv RandAugment", 2.0),
    ("RandAugment, all applied", "keras.layers RandAugment", 20.0),
    ("RandAugment", "keras_cv RandAugment", 2.0),
    ("training, RandAugment", "file, decode, bicubic", 0.6),
    ("training, RandAugment, all applied", "file, decode, bicubic", 0.6),
    ("training, RandAugment, all applied", "file, decode, bilinear", None),
    ("training, RandAugment, CutMix", "file, decode, bicubic", None),
    ("training", "file, decode, bicubic", None),
    ("training from memory", "training", None),
    ("training from memory, RandAugment", "training, RandAugment", None),
)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", help="folder of JPEG files (two photos without)")
    parser.add_argument("--repetitions", type=int, default=7, help="default: %(default)s")
    parser.add_argument(
        "--seconds", type=float, default=2.0, help="for each measurement; default: %(default)s"
    )
    options = parse(parser)
    with tempfile.TemporaryDirectory() as folder:
        files = jpeg_files(options.images and Path(options.images), Path(folder))
        pipelines = {**image_pipelines(), **file_pipelines(files)}
        rates = {clock: {name: [] for name in pipelines} for clock in CLOCKS}
        for _ in trange(options.repetitions, desc="Measuring", unit="round", disable=None):
            for name, pipeline in pipelines.items():
                for clock, rate in images_per_second(pipeline, options.seconds).items():
                    rates[clock][name].append(rate)
    for clock, by_name in rates.items():
        for name, values in by_name.items():
            print(f"{name}: {statistics.median(values):.0f} images/s of {clock} time")
    rows = [
        row(f"images/s of {clock} time, {ours}", peer, by_name[ours], by_name[peer], reach)
        for clock, by_name in rates.items()
        for ours, peer, reach in RATIOS
    ]
    report(options, PACKAGES, rows, files=len(files), images_per_second=rates)


def jpeg_files(images: Path | None, folder: Path) -> list[str]:
    """Returns the JPEG files under a folder, or scikit-learn's two photos at ImageNet's size."""
    if images is not None:
        files = sorted(str(file) for file in images.rglob("*.jpg"))
        if not files:
            raise SystemExit(f"--images {images} has no file named *.jpg.")
        return files
    for number, photo in enumerate(load_sample_images().images):
        smaller = tf.image.resize(photo, [375, 500], "area")
        content = tf.io.encode_jpeg(tf.cast(smaller, tf.uint8), quality=95)
        tf.io.write_file(str(folder / f"{number}.jpg"), content)
    return sorted(str(file) for file in folder.glob("*.jpg"))


def image_pipelines() -> dict[str, tf.data.Dataset]:
    """From images in memory to batches: augmentation alone."""
    photos = load_sample_images().images
    crops = [
        photo[row : row + SIZE, column : column + SIZE]
        for photo in photos
        for row in range(0, 200, 50)
        for column in range(0, 400, 50)
    ]
    images = tf.data.Dataset.from_tensor_slices(np.stack(crops)).cache().repeat()
    keras_cv_layer = keras_cv.layers.RandAugment(
        (0, 255), augmentations_per_image=LAYERS, magnitude=0.5, rate=1.0
    )
    keras_layer = keras.layers.RandAugment((0, 255), num_ops=LAYERS, factor=0.5)
    batches = images.batch(BATCH, drop_remainder=True)
    return {
        "no augmentation (limit)": mapped(with_seeds(images), lambda image, _: image),
        "RandAugment": mapped(with_seeds(images), lambda i, s: rand_augment(i, s, LAYERS)),
        "RandAugment, all applied": mapped(
            with_seeds(images), lambda i, s: rand_augment(i, s, LAYERS, op_probability=1)
        ),
        "AutoAugment": mapped(with_seeds(images), auto_augment),
        "keras_cv RandAugment": parallel(batches, lambda b: keras_cv_layer(b)),
        "keras.layers RandAugment": parallel(batches, lambda b: keras_layer(b, training=True)),
    }


def file_pipelines(files: list[str]) -> dict[str, tf.data.Dataset]:
    """From JPEG files to batches: bare, and as training gets them."""
    paths = tf.data.Dataset.from_tensor_slices(files).repeat()

    def decode(path):
        return tf.io.decode_jpeg(tf.io.read_file(path), channels=3)

    def bare(method):
        return mapped(paths, lambda p: tf.image.resize(decode(p), [SIZE, SIZE], method))

    on_disk, in_memory = (data_set(files, memory_bytes) for memory_bytes in (0, 2**40))

    def training(data, **options):
        return training_batches(data, SIZE, BATCH, seed=1, augmentation=Augmentation(**options))

    return {
        # The shape stands for the image, because images of several sizes make no batch.
        "file, decode (limit)": mapped(paths, lambda p: tf.shape(decode(p))),
        "file, decode, bilinear": bare("bilinear"),
        "file, decode, bicubic": bare("bicubic"),
        "training": training(on_disk),
        "training, RandAugment": training(on_disk, policy="rand"),
        "training, RandAugment, all applied": training(on_disk, policy="rand", op_probability=1.0),
        "training, RandAugment, CutMix": training(on_disk, policy="rand", cutmix_alpha=1.0),
        "training from memory": training(in_memory),
        "training from memory, RandAugment": training(in_memory, policy="rand"),
    }


def data_set(files: list[str], memory_bytes: int) -> Dataset:
    """The files as training sees them."""
    sizes = [Image.open(file).size for file in files]
    examples = FileExamples(
        [
            ImageFile(Path(file), 0, 1, height, width)
            for file, (width, height) in zip(files, sizes, strict=True)
        ],
        memory_bytes,
    )
    return Dataset("files", "files", ("any",), examples, examples, 0.875, mirror=True)


def with_seeds(dataset: tf.data.Dataset) -> tf.data.Dataset:
    seeds = tf.data.Dataset.random(seed=1).batch(2, drop_remainder=True)
    return tf.data.Dataset.zip(dataset, seeds)


def mapped(dataset: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    mapped_images = dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE)
    return mapped_images.batch(BATCH, drop_remainder=True).prefetch(tf.data.AUTOTUNE)


def parallel(batches: tf.data.Dataset, function: Callable) -> tf.data.Dataset:
    return batches.map(function, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def images_per_second(batches: tf.data.Dataset, seconds: float) -> dict[str, float]:
    iterator = iter(batches)
    start = time.perf_counter()
    while time.perf_counter() - start < seconds / 4:  # until buffers and autotuning settle
        next(iterator)
    starts, count = {clock: now() for clock, now in CLOCKS.items()}, 0
    while time.perf_counter() - starts["wall"] < seconds:
        next(iterator)
        count += BATCH
    return {clock: count / (now() - starts[clock]) for clock, now in CLOCKS.items()}


if __name__ == "__main__":
    main()
