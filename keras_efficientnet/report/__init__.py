"""What a training run reports: the record (`report.json`) and its page (`report.html`)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
