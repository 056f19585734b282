"""The names of `keras.applications.efficientnet`, for code that was written for it."""

from typing import Any

import numpy as np
from keras import ops

from keras_efficientnet.errors import InputError, require
from keras_efficientnet.variants import EfficientNetB0 as EfficientNetB0
from keras_efficientnet.variants import EfficientNetB1 as EfficientNetB1
from keras_efficientnet.variants import EfficientNetB2 as EfficientNetB2
from keras_efficientnet.variants import EfficientNetB3 as EfficientNetB3
from keras_efficientnet.variants import EfficientNetB4 as EfficientNetB4
from keras_efficientnet.variants import EfficientNetB5 as EfficientNetB5
from keras_efficientnet.variants import EfficientNetB6 as EfficientNetB6
from keras_efficientnet.variants import EfficientNetB7 as EfficientNetB7
from keras_efficientnet.weights.imagenet import imagenet_synsets


def preprocess_input(x: Any, data_format: str | None = None) -> Any:
    """Returns its input: as in Keras, networks take pixels in 0-255 and normalize them inside."""
    return x


def decode_predictions(preds: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Names the best of ImageNet's 1,000 classes, without a download.

    Args:
        preds: scores `[count, 1000]`.
        top: how many of the best classes to name.

    Returns:
        For each row, the best first: WordNet id, name and score. Names are those of
        `weights.imagenet_classes`, with underscores.

    Raises:
        InputError: if the scores have another shape.
    """
    scores = np.asarray(ops.convert_to_numpy(preds))
    classes = list(imagenet_synsets().items())
    if scores.ndim != 2 or scores.shape[1] != len(classes):
        raise InputError(
            f"preds of shape {scores.shape} cannot be decoded; scores [count, {len(classes)}] of "
            "ImageNet's classes can."
        )
    require(top >= 1, "top", top, "at least 1")
    return [
        [
            (synset, name.replace(" ", "_"), float(row[index]))
            for index in np.argsort(-row, kind="stable")[:top]
            for synset, name in [classes[index]]
        ]
        for row in scores
    ]
