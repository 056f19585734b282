"""Opens models that Keras saved: `.keras` files, and whole models in `.h5` of Keras 2 and 3."""

from pathlib import Path

import h5py
import keras

from keras_efficientnet import layers as layers  # registers the classes that files name
from keras_efficientnet.errors import InputError
from keras_efficientnet.weights.readers.hdf5 import open_hdf5

HDF5_SUFFIXES = (".h5", ".hdf5")
SUFFIXES = (".keras", *HDF5_SUFFIXES)


def load_keras(path: Path) -> keras.Model:
    """Loads a model, without what training left in it and without running code of the file.

    Raises:
        InputError: if an `.h5` file has weights alone, or would have another file read. Damaged
            files raise whatever Keras does.
    """
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
    return keras.saving.load_model(path, compile=False, safe_mode=True)
