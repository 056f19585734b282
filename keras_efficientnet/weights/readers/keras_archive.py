"""The `.keras` archive, read as data: its layers are looked at and never built."""

import json
import re
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.readers.hdf5 import Layers, layer_configs, open_hdf5
from keras_efficientnet.weights.weight_file import Tensor

MEMBERS = ("config.json", "model.weights.h5")
# B7's takes a hundredth of it.
MAX_CONFIG_BYTES = 2**26


@contextmanager
def open_keras_archive(path: str) -> Iterator[tuple[str, dict[str, Tensor], Layers]]:
    """Yields what `open_hdf5` does, without building the model.

    Raises:
        InputError: if the model has a Lambda layer.
    """
    with zipfile.ZipFile(path) as archive:
        with archive.open("config.json") as file:
            content = file.read(MAX_CONFIG_BYTES + 1)
        if len(content) > MAX_CONFIG_BYTES:
            raise InputError(f"{path!r} has a config.json of more than 64 MiB, which no model has.")
        config = json.loads(content)
        layers = list(layer_configs(config["config"]))
        if any(layer["class_name"] == "Lambda" for _, layer in layers):
            raise InputError(
                f"{path!r} has a Lambda layer, which is code and is never run here; a .keras or "
                ".weights.h5 file of a model without one is accepted."
            )
        with (
            archive.open("model.weights.h5") as weights,
            open_hdf5(weights, path, _group_names(config)) as (_, tensors, _),  # pyright: ignore[reportArgumentType]
        ):
            yield "Keras .keras", tensors, layers


def _group_names(config: dict) -> dict[str, str]:
    """Layer names by HDF5 group, which Keras calls after the class and numbers in order.

    Keras' first archives have the names nowhere else.
    """
    names, counts = {}, Counter()
    for layer in config["config"].get("layers", ()):
        words = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", layer["class_name"])
        group = re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
        number = f"_{counts[group]}" if counts[group] else ""
        names[f"layers/{group}{number}"] = layer["config"].get("name", "")
        counts[group] += 1
    return names
