"""Keras' own `load_weights`, where it would leave a part of a network random without a word.

Networks of keras.applications have other layers than this package's: squeeze-and-excitation is two
there. Keras matches by name or by order, so that a file of theirs is refused by its number of
layers, or, with `by_name` or `skip_mismatch`, fills all but those layers.
"""

import os
from typing import Any

import h5py
import keras

from keras_efficientnet import layers
from keras_efficientnet.errors import InputError

_SUFFIXES = (".h5", ".hdf5", ".keras")


def guard(model: keras.Model) -> None:
    """Makes `model.load_weights` refuse files of networks with other layers.

    Raises, when it is called with one:
        InputError: with the line that loads it.
    """
    load: Any = model.load_weights

    def load_weights(filepath, *args, **options):
        path = os.fspath(filepath) if isinstance(filepath, str | os.PathLike) else ""
        if path.endswith(_SUFFIXES) and os.path.isfile(path) and _is_foreign(model, path):
            raise InputError(
                f"{path!r} has squeeze-and-excitation in layers of its own, as keras.applications "
                f"has, which Keras would leave random here; keras_efficientnet.load_weights(model, "
                f"{path!r}) loads it."
            )
        return load(filepath, *args, **options)

    object.__setattr__(model, "load_weights", load_weights)  # which Keras need not track


def _is_foreign(model: keras.Model, path: str) -> bool:
    """Whether a network has squeeze-and-excitation, and a Keras file has it in other layers."""
    if not any(isinstance(layer, layers.SqueezeExcite) for layer in model.layers):
        return False
    try:
        with h5py.File(path) as file:
            weights = file.get("model_weights", file)
            named = weights.attrs.get("layer_names")
            if named is not None:  # of Keras 2, and whole models of Keras 3
                return any(name.endswith("_se_reduce") for name in map(_text, named))
            of_keras_3 = file.get("layers")
            return isinstance(of_keras_3, h5py.Group) and not any(
                name.startswith("squeeze_excite") for name in of_keras_3
            )
    except OSError:  # no HDF5 file, as a .keras archive is
        return False


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
