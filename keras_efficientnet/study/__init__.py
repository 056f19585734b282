"""The paper's experiments: what scaling and other networks cost and give."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
