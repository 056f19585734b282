"""EfficientNet in Keras 3, from the paper's scaling rule to a phone.

Names are loaded when they are first used: importing the package does not import
TensorFlow. `__init__.pyi` lists them.
"""

import lazy_loader

from keras_efficientnet._registration import register_with_keras

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
register_with_keras()
del register_with_keras
