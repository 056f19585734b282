"""Weights from anywhere: published sets by name, and files of many layouts.

`readers` opens a file by what it contains, `schemes` translates its names, `matching`
compares them with a model's variables, `loading` fills these, `registry` lists what is
published and `download` brings it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
