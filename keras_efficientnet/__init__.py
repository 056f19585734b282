"""EfficientNet in Keras 3, from the paper's scaling rule to a phone.

Names are loaded when they are first used: importing the package does not import
TensorFlow. `__init__.pyi` lists them.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
