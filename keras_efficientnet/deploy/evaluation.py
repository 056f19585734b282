"""Accuracy of a model file on held-out images."""

from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_efficientnet.data import images
from keras_efficientnet.data.sources import DataSet
from keras_efficientnet.deploy.predictor import Predictor
from keras_efficientnet.deploy.runtime import BATCH_SIZE
from keras_efficientnet.errors import InputError


def evaluate(predictor: Predictor, data: DataSet) -> dict[str, Any]:
    """Classifies every held-out image of a data set.

    Args:
        predictor: the model. Its classes are matched with the data's by name, or by
            index where the file carries no names.
        data: its `test` images are used, prepared as the model was evaluated in training.

    Returns:
        `images`, `accuracy`, and `classes`: the same two for each class name.

    Raises:
        InputError: if the data has a class that the model does not know.
    """
    known = predictor.info.class_names or data.class_names
    if missing := sorted(set(data.class_names) - set(known)):
        raise InputError(
            f"The data's class {missing[0]!r} is not among the model's: {', '.join(known[:10])}"
            f"{' ...' if len(known) > 10 else ''}."
        )
    to_model = np.array([known.index(name) for name in data.class_names])
    counts = np.zeros(len(data.class_names), int)
    right = np.zeros(len(data.class_names), int)
    size, crop_fraction = predictor.info.image_size, predictor.info.crop_fraction
    examples = iter(data.test)
    with tqdm(total=len(data.test), unit="img", desc="Evaluating", leave=False) as bar:
        while batch := list(islice(examples, BATCH_SIZE)):
            prepared = np.stack([images.prepare(image, size, crop_fraction) for image, _ in batch])
            labels = np.array([label for _, label in batch])
            scores = predictor.scores(prepared)
            if scores.shape[1] < len(known):
                raise InputError(
                    f"The model tells {scores.shape[1]} classes apart and the data has "
                    f"{len(known)}; evaluate it on data of its own classes."
                )
            hits = scores.argmax(1) == to_model[labels]
            np.add.at(counts, labels, 1)
            np.add.at(right, labels, hits)
            bar.update(len(batch))
    return {
        "images": int(counts.sum()),
        "accuracy": float(right.sum() / counts.sum()),
        "classes": {
            name: {"images": int(count), "accuracy": float(hits / count)}
            for name, count, hits in zip(data.class_names, counts, right, strict=True)
            if count
        },
    }
