"""The 1,000 classes of ImageNet-1k."""

import functools
from pathlib import Path

IMAGENET_CLASSES = 1000


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Returns the 1,000 class names of ImageNet-1k, in the order of Keras and torchvision.

    Each is the first word of its WordNet synset, or two words where that would not be unique.
    """
    return tuple(imagenet_synsets().values())


@functools.cache
def imagenet_synsets() -> dict[str, str]:
    """Returns `imagenet_classes` by their WordNet IDs, which ImageNet's own folders are called."""
    lines = Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines()
    return dict(line.split(" ", 1) for line in lines)
