"""Folders of small images, for tests of what reads them."""

from PIL import Image

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def write_classes(root, count=5, size=(40, 30)):
    """One folder of plain images for each colour."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, colour).save(root / name / f"{index}.png")
