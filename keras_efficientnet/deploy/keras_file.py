"""Opens models that Keras saved: `.keras` files, and whole models in `.h5` of Keras 2 and 3."""

from pathlib import Path
from typing import Any

import h5py
import keras

from keras_efficientnet import layers as layers  # registers the classes that files name
from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.readers.hdf5 import open_hdf5

HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *HDF5_SUFFIXES)
_PARTS = ("initializer", "regularizer", "constraint")
# What Keras 2 saved of a convolution and never used, which Keras 3 does not take.
_UNUSED = {
    "DepthwiseConv2D": ("groups",),
    "Conv2DTranspose": ("groups",),
    "SeparableConv2D": ("groups", *(f"kernel_{part}" for part in _PARTS)),
}


def load_keras(path: Path) -> keras.Model:
    """Loads a model, without what training left in it and without running code of the file.

    Raises:
        InputError: if an `.h5` file has weights alone, or would have another file read. Damaged
            files raise whatever Keras does.
    """
    older = {}
    if path.suffix in HDF5_SUFFIXES:
        with h5py.File(path) as file:
            has_model = "model_config" in file.attrs
        if not has_model:
            raise InputError(
                "it has weights and no network; build the network, load them by "
                "keras_efficientnet.load_weights and save it as .keras"
            )
        with open_hdf5(str(path), str(path)):
            pass  # which refuses what lies in another file
        older = {name: _of_keras_2(name, unused) for name, unused in _UNUSED.items()}
    return keras.saving.load_model(path, custom_objects=older, compile=False, safe_mode=True)


def _of_keras_2(name: str, unused: tuple[str, ...]) -> type:
    """Returns a stand-in that makes Keras' own layer of what Keras 2 saved of it."""
    layer: Any = getattr(keras.layers, name)

    def from_config(cls, config):
        # More than one group never was a depthwise convolution's.
        dropped = unused if config.get("groups", 1) == 1 else ()
        return layer.from_config({key: config[key] for key in config if key not in dropped})

    return type(name, (layer,), {"from_config": classmethod(from_config)})
