"""Networks with published weights by name, ready to classify photos."""

import functools
from pathlib import Path

import keras

from keras_efficientnet import model
from keras_efficientnet._version import __version__
from keras_efficientnet.description import ModelDescription, write_description
from keras_efficientnet.files import atomic_write
from keras_efficientnet.spec import VariantSpec
from keras_efficientnet.weights import download
from keras_efficientnet.weights.loading import load_weights
from keras_efficientnet.weights.registry import find_pretrained

IMAGENET_CLASSES = 1000


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Returns the 1,000 class names of ImageNet-1k, in the order of Keras and torchvision.

    Each is the first word of its WordNet synset, or two words where that would not be unique.
    """
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines())


@functools.cache
def imagenet_synsets() -> tuple[str, ...]:
    """Returns the WordNet ids of the 1,000 classes, such as `n01440764`, in the same order."""
    return tuple(Path(__file__).with_name("imagenet_synsets.txt").read_text("utf-8").splitlines())


def open_pretrained(name: str) -> tuple[keras.Model, ModelDescription]:
    """Builds a network with published weights, and says how it is to be used.

    Args:
        name: as for `find_pretrained`.

    Returns:
        A model of images of any size, from raw RGB pixels in 0-255 to probabilities, and its
        description: class names, the image side and crop its accuracy was measured with.

    Raises:
        InputError: if there are no such weights, or they cannot be found or downloaded.
    """
    entry = find_pretrained(name)
    network = model.build(entry.spec(), input_shape=(None, None, 3), classes=entry.classes)
    load_weights(network, entry.name)
    stated = f", top-1 {entry.top1:g} % on ImageNet" if entry.top1 else ""
    summary = f"Published weights '{entry.name}' ({entry.source}{stated})."
    return network, describe(entry.spec(), entry.classes, entry.crop_fraction, summary)


def pretrained_file(name: str) -> Path:
    """Returns a .keras file with published weights, which is written into Keras' cache once.

    Whatever takes the path of a model file takes it: `ke.Predictor(pretrained_file("imagenet"))`.

    Args:
        name: as for `find_pretrained`.

    Raises:
        InputError: as `open_pretrained`.
    """
    entry = find_pretrained(name)
    file = f"keras-efficientnet-{__version__}-{entry.variant.lower()}-{entry.name}.keras"
    path = Path(download.cache_folder(), "models", file)
    if not path.exists():
        network, description = open_pretrained(f"{entry.name}:{entry.variant}")
        with atomic_write(path, overwrite=True) as unfinished:
            network.save(unfinished)
            write_description(unfinished, description)
    return path


def describe(
    variant: VariantSpec, classes: int | None, crop_fraction: float, summary: str = ""
) -> ModelDescription:
    """Describes a network that has the preprocessing inside; 1,000 classes are ImageNet's."""
    return ModelDescription(
        variant=variant.name,
        class_names=imagenet_classes() if classes == IMAGENET_CLASSES else (),
        image_size=variant.resolution,
        crop_fraction=crop_fraction,
        pixel_mean=(0.0,),
        pixel_std=(1.0,),
        summary=summary,
    )
