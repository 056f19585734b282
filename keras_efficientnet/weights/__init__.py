"""Fills a model's variables from a file."""

import os
import re
import warnings
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
    path = os.fspath(source) if isinstance(source, str | os.PathLike) else None
    if path is None or not os.path.isfile(path):
        raise InputError(f"weights={source!r} must be None or the path of an existing file.")
    if not path.endswith((".weights.h5", ".keras")):
        raise InputError(f"weights={path!r} must end in .weights.h5 or .keras.")
    try:
        with warnings.catch_warnings():
            # Keras warns for each layer that a file does not fit, and then raises.
            warnings.simplefilter("ignore")
            model.load_weights(path)
    except (ValueError, OSError, KeyError, zipfile.BadZipFile) as error:
        # Keras goes on with the values of a variable and a list of all layers.
        reason = " ".join(re.split("Target variable|List of objects", str(error))[0].split())
        raise InputError(f"Cannot load {path!r} into {model.name!r}: {reason}") from error
