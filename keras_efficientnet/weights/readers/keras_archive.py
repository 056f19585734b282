"""The `.keras` archive, read as data: its layers are looked at and never built."""

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.checkpoint import Tensor
from keras_efficientnet.weights.readers.hdf5 import layer_configs, open_hdf5

MEMBERS = ("config.json", "model.weights.h5")


@contextmanager
def open_keras_archive(path: str) -> Iterator[tuple[str, dict[str, Tensor], list[dict]]]:
    """Yields what `open_hdf5` does, without building the model.

    Raises:
        InputError: if the model has a Lambda layer.
    """
    with zipfile.ZipFile(path) as archive:
        layers = list(layer_configs(json.loads(archive.read("config.json"))))
        if any(layer["class_name"] == "Lambda" for layer in layers):
            raise InputError(
                f"{path!r} has a Lambda layer, which is code and is never run here; a .keras or "
                ".weights.h5 file of a model without one is accepted."
            )
        with (
            archive.open("model.weights.h5") as weights,
            open_hdf5(weights, path) as (_, tensors, _),  # pyright: ignore[reportArgumentType]
        ):
            yield "Keras .keras", tensors, layers
