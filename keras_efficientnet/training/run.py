"""A whole run: from a data set to a folder of verified model files."""

import csv
import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_efficientnet import deploy, scaling, variants
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.sources import DataSet
from keras_efficientnet.deploy.export import CALIBRATION_IMAGES
from keras_efficientnet.files import size_in_bytes, written_whole
from keras_efficientnet.training.progress import ProgressBar, StopOnNaN
from keras_efficientnet.training.recipes import Recipe, recipe

OUTPUT_ROOT = Path("saved_models")
# Held-out images are kept in memory as pixels; more than this are sampled evenly.
HELD_OUT_BYTES = 2 * 2**30

ARTIFACTS = {
    "keras": "model.keras",
    "saved_model": "saved_model",
    "tflite_float32": "model_float32.tflite",
    "tflite_int8": "model_int8.tflite",
}


def train(
    data: DataSet | str = "digits",
    variant: scaling.Variant = "B0",
    *,
    training_recipe: Recipe | None = None,
    image_size: int | None = None,
    seed: int = 0,
    weights: str | os.PathLike | None = None,
    output: str | os.PathLike | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Trains a classifier, exports it and checks every exported file.

    Args:
        data: a data set or its name, see `data.sources.load`.
        variant: network to train.
        training_recipe: how; `recipe("small")` if None.
        image_size: side of the input in pixels; by default the data set's own where it
            has one, else the variant's.
        seed: of the initial weights, the order of the images and their augmentation.
        weights: file to start from, as the builders take it.
        output: folder for the results; `saved_models/DATA-VARIANT` if None. It appears
            only when everything is done.
        overwrite: replace an existing folder.

    Returns:
        The content of the folder's `report.json`, and its path as `output`.

    Raises:
        InputError: if something given cannot be used, or the loss is no longer finite.
    """
    started = time.monotonic()
    variant = scaling.get_variant(variant)
    data = sources.load(data) if isinstance(data, str) else data
    training_recipe = training_recipe or recipe("small")
    # A set smaller than a batch would give no step at all.
    batch_size = min(training_recipe.batch_size, len(data.train))
    training_recipe = dataclasses.replace(training_recipe, batch_size=batch_size)
    size = image_size or data.image_size or variant.resolution
    output = Path(output or OUTPUT_ROOT / f"{data.name}-{variant.name.lower()}")

    keras.utils.set_random_seed(seed)
    with written_whole(output, overwrite) as folder:
        folder.mkdir()
        model = variants.EfficientNet(
            variant,
            weights=weights,
            input_shape=(size, size, 3),
            classes=len(data.class_names),
            drop_connect_rate=training_recipe.drop_connect_rate,
        )
        images, labels = _held_out(data, size)
        history = fit(model, data, training_recipe, size, seed, (images, labels))
        _write_history(folder / "history.csv", history)
        info = deploy.ModelInfo(variant.name, data.class_names, size, data.crop_fraction)
        _export(model, data, info, folder)
        report = {
            "variant": variant.name,
            "data": data.source,
            "image_size": size,
            "seed": seed,
            "epochs": training_recipe.epochs,
            "recipe": dataclasses.asdict(training_recipe),
            "parameters": model.count_params(),
            "train_images": len(data.train),
            "test_images": len(images),
            **deploy.verify(
                {name: folder / file for name, file in ARTIFACTS.items()}, "keras", images, labels
            ),
            "files": {file: size_in_bytes(folder / file) for file in ARTIFACTS.values()},
            "seconds": round(time.monotonic() - started, 1),
        }
        text = json.dumps(report, indent=1, ensure_ascii=False)
        (folder / "report.json").write_text(text + "\n", encoding="utf-8")
    return {**report, "output": str(output)}


def fit(
    model: keras.Model,
    data: DataSet,
    training_recipe: Recipe,
    image_size: int,
    seed: int,
    held_out: tuple[np.ndarray, np.ndarray],
) -> keras.callbacks.History:
    """Compiles a model by a recipe and fits it, with a progress bar.

    Args:
        model: a classifier of the data set's classes.
        data: where the training images come from.
        training_recipe: how.
        image_size: side of the model's input in pixels.
        seed: of the order of the images and of their augmentation.
        held_out: prepared images and class indices, evaluated after each epoch.
    """
    batch_size = training_recipe.batch_size
    steps_per_epoch = len(data.train) // batch_size
    batches = pipeline.training_batches(
        data, image_size, batch_size, seed, training_recipe.min_crop_area
    )
    training_recipe.compile(model, steps_per_epoch)
    progress = ProgressBar(batch_size, steps_per_epoch)
    try:
        return model.fit(
            batches,
            epochs=training_recipe.epochs,
            steps_per_epoch=steps_per_epoch,
            validation_data=held_out,
            validation_batch_size=64,
            shuffle=False,  # the batches come shuffled
            verbose=0,
            callbacks=[progress, StopOnNaN()],
        )
    finally:
        progress.close()


def _held_out(data: DataSet, size: int) -> tuple[np.ndarray, np.ndarray]:
    limit = max(1, HELD_OUT_BYTES // (3 * size * size))
    return pipeline.evaluation_arrays(data.test, size, data.crop_fraction, limit)


def _export(model: keras.Model, data: DataSet, info: deploy.ModelInfo, folder: Path) -> None:
    print("Exporting and checking the model files ...", file=sys.stderr)
    calibration, _ = pipeline.evaluation_arrays(
        data.train, info.image_size, info.crop_fraction, CALIBRATION_IMAGES
    )
    deploy.save_keras(model, folder / ARTIFACTS["keras"], info)
    deploy.export_saved_model(model, folder / ARTIFACTS["saved_model"], info)
    deploy.export_tflite(model, folder / ARTIFACTS["tflite_float32"], info)
    deploy.export_tflite(model, folder / ARTIFACTS["tflite_int8"], info, "int8", calibration)
    (folder / "labels.txt").write_text(
        "".join(f"{name}\n" for name in info.class_names), encoding="utf-8"
    )


def _write_history(path: Path, history: keras.callbacks.History) -> None:
    columns = history.history
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["epoch", *columns])
        for epoch, values in enumerate(zip(*columns.values(), strict=True), start=1):
            writer.writerow([epoch, *values])
