"""Fills Keras' registry of layers as soon as Keras and this package are both imported.

`keras.models.load_model` finds a saved layer in a registry that `layers` fills when it is
imported. Importing it here would import TensorFlow with the package, so it waits for
whoever imports Keras.
"""

import importlib
import sys


class _AfterKeras:
    """Finds `keras` as the other finders do, and has `layers` imported after it."""

    def find_spec(self, fullname, path, target=None):
        if fullname != "keras":
            return None
        for finder in sys.meta_path:
            if finder is not self and (spec := finder.find_spec(fullname, path, target)):
                break
        else:
            return None
        loader = spec.loader
        if loader is None or not hasattr(loader, "exec_module"):
            return spec
        exec_module = loader.exec_module

        def exec_then_register(module):
            exec_module(module)
            _register()

        loader.exec_module = exec_then_register  # pyright: ignore[reportAttributeAccessIssue]
        return spec


def _register() -> None:
    importlib.import_module("keras_efficientnet.layers")


def register_with_keras() -> None:
    """Registers the layers now if Keras is imported, or else when it will be."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())
