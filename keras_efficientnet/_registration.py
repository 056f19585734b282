"""Fills Keras' registry of classes as soon as Keras and this package are both imported.

`keras.models.load_model` finds a saved layer in a registry that the layer's module fills
when it is imported. Importing it with the package would import TensorFlow, so it waits for
whoever imports Keras.
"""

import importlib
import importlib.util
import sys

MODULES = ("layers", "training.schedule", "training.optimizer", "losses")


class _AfterKeras:
    """Finds `keras` as usual, and imports the modules that register classes after it."""

    def find_spec(self, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(self)  # the search below must not come back here
        try:
            found = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if found and found.loader:
            execute = found.loader.exec_module

            def execute_and_register(module):
                execute(module)
                _register()

            found.loader.exec_module = execute_and_register
        return found


def _register() -> None:
    for module in MODULES:
        importlib.import_module(f"keras_efficientnet.{module}")


def register_with_keras() -> None:
    """Registers the classes now if Keras is imported already, else as soon as it is."""
    if "keras" in sys.modules:
        _register()
    else:
        sys.meta_path.insert(0, _AfterKeras())
