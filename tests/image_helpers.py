"""Folders of small images, for tests of what reads them."""

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

from keras_efficientnet.data import images

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def write_classes(root, count=5, size=(40, 30)):
    """One folder of plain images for each colour."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, colour).save(root / name / f"{index}.png")


def real_photos(size, count):
    """Square pieces of the two photographs that scikit-learn ships, uint8 [count, size, size, 3].

    They are cut at many places and scales and prepared as in evaluation.
    """
    rng = np.random.default_rng(0)
    photographs = load_sample_images().images
    pieces = []
    for index in range(count):
        photograph = Image.fromarray(photographs[index % 2])
        side = int(rng.integers(size, min(photograph.size)))
        left, top = (int(rng.integers(0, extent - side + 1)) for extent in photograph.size)
        piece = photograph.crop((left, top, left + side, top + side))
        pieces.append(images.prepare(piece, size, 1.0))
    return np.stack(pieces)
