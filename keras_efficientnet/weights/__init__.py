"""Fills a model's variables from a file."""

import os
import zipfile

import keras

from keras_efficientnet.errors import InputError


def load_weights(model: keras.Model, source: str | os.PathLike) -> None:
    """Loads a `.weights.h5` or `.keras` file saved from the same architecture.

    Args:
        model: the model to fill.
        source: path of the file.

    Raises:
        InputError: if the file is missing, is not such a file, or does not fit the model.
    """
    path = os.fspath(source)
    if not os.path.isfile(path):
        raise InputError(f"weights={path!r} must be None or the path of an existing file.")
    if not path.endswith((".weights.h5", ".keras")):
        raise InputError(f"weights={path!r} must end in .weights.h5 or .keras.")
    try:
        model.load_weights(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"Cannot load {path!r} into {model.name!r}: {reason}") from error
