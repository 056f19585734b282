"""Accuracy of a model file on held-out images."""

from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_efficientnet.data import images
from keras_efficientnet.data.sources import Dataset
from keras_efficientnet.deploy.predictor import Predictor
from keras_efficientnet.deploy.runtime import BATCH_SIZE
from keras_efficientnet.errors import InputError

TOP = 5
MOST_CONFUSED = 20


def evaluate(predictor: Predictor, data: Dataset) -> dict[str, Any]:
    """Classifies every held-out image of a data set.

    Args:
        predictor: the model. Its classes are matched with the data's by name, or by
            index where the file carries no names.
        data: its `test` images are used, prepared as the model was evaluated in training.

    Returns:
        `images`, `accuracy`, `top5_accuracy` (of a model with more than five classes),
        `classes`: the same for each class name, and `confusions`: the most frequent
        mistakes, each `class`, `taken_for` and `images`.

    Raises:
        InputError: if the data has a class that the model does not know.
    """
    known = predictor.description.class_names or data.class_names
    if missing := sorted(set(data.class_names) - set(known)):
        raise InputError(
            f"The data's class {missing[0]!r} is not among the model's: {', '.join(known[:10])}"
            f"{' ...' if len(known) > 10 else ''}."
        )
    ranks, mistakes = _ranks(predictor, data, known)
    return {
        **_accuracies(np.concatenate(ranks), len(known)),
        "classes": {
            name: _accuracies(np.array(of_class), len(known))
            for name, of_class in zip(data.class_names, ranks, strict=True)
            if len(of_class)
        },
        "confusions": [
            {"class": name, "taken_for": other, "images": count}
            for (name, other), count in sorted(mistakes.items(), key=lambda item: -item[1])
        ][:MOST_CONFUSED],
    }


def _ranks(
    predictor: Predictor, data: Dataset, known: tuple[str, ...]
) -> tuple[list[list[int]], dict[tuple[str, str], int]]:
    """Gives the true class's rank for the images of each class, 0 if best, and the mistakes."""
    to_model = np.array([known.index(name) for name in data.class_names])
    ranks: list[list[int]] = [[] for _ in data.class_names]
    mistakes: dict[tuple[str, str], int] = {}
    size, crop_fraction = predictor.description.image_size, predictor.description.crop_fraction
    examples = iter(data.test)
    with tqdm(total=len(data.test), unit="img", desc="Evaluating", leave=False) as bar:
        while batch := list(islice(examples, BATCH_SIZE)):
            prepared = np.stack([images.prepare(image, size, crop_fraction) for image, _ in batch])
            scores = predictor.scores(prepared)
            if scores.shape[1] < len(known):
                raise InputError(
                    f"The model tells {scores.shape[1]} classes apart and the data has "
                    f"{len(known)}; evaluate it on data of its own classes."
                )
            # Stable, so that of equal scores the first class wins, as with argmax.
            order = np.argsort(-scores, axis=1, kind="stable")
            for best, (_, label) in zip(order, batch, strict=True):
                rank = int(np.flatnonzero(best == to_model[label])[0])
                ranks[label].append(rank)
                if rank:
                    index = int(best[0])
                    other = known[index] if index < len(known) else f"class {index}"
                    pair = (data.class_names[label], other)
                    mistakes[pair] = mistakes.get(pair, 0) + 1
            bar.update(len(batch))
    return ranks, mistakes


def _accuracies(ranks: np.ndarray, classes: int) -> dict[str, Any]:
    result = {"images": len(ranks), "accuracy": float((ranks == 0).mean())}
    if classes > TOP:
        result["top5_accuracy"] = float((ranks < TOP).mean())
    return result
