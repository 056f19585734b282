"""Networks with published weights by name, ready to classify photos."""

import dataclasses
from pathlib import Path

import keras

from keras_efficientnet import model, scaling
from keras_efficientnet._version import __version__
from keras_efficientnet.description import ModelDescription, write_description
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write
from keras_efficientnet.weights import download
from keras_efficientnet.weights.conversion import build_from, describe
from keras_efficientnet.weights.hub import address, fetch_hub, is_hub
from keras_efficientnet.weights.loading import load_weights
from keras_efficientnet.weights.readers import open_weight_file
from keras_efficientnet.weights.registry import find_pretrained
from keras_efficientnet.weights.structure import closest_variant


def open_pretrained(name: str) -> tuple[keras.Model, ModelDescription]:
    """Builds a network with published weights, and says how it is to be used.

    Args:
        name: as for `find_pretrained`, or `hf://owner/name` of the Hugging Face Hub.

    Returns:
        A model of images of any size, from raw RGB pixels in 0-255 to probabilities, and its
        description: class names, the image side and crop its accuracy was measured with.

    Raises:
        InputError: if there are no such weights, or they cannot be found or downloaded.
    """
    if is_hub(name):
        return _open_hub(address(name))
    entry = find_pretrained(name)
    network = model.build(entry.spec(), input_shape=(None, None, 3), classes=entry.classes)
    load_weights(network, entry.name)
    stated = f", top-1 {entry.top1:g} % on ImageNet" if entry.top1 else ""
    summary = f"Published weights '{entry.name}' ({entry.source}{stated})."
    found = describe(entry.spec(), entry.classes, entry.crop_fraction, entry.interpolation)
    return network, dataclasses.replace(found, summary=summary)


def _open_hub(name: str) -> tuple[keras.Model, ModelDescription]:
    with open_weight_file(name) as file:
        variant, fitting = closest_variant(file)
        if fitting < 1:
            raise InputError(f"{name} is no published variant of EfficientNet; it cannot be used.")
        network, _, description = build_from(file, scaling.get_variant(variant))
    return network, dataclasses.replace(description, summary=f"Weights of {name}.")


def pretrained_file(name: str) -> Path:
    """Returns a .keras file with published weights, which is written into Keras' cache once.

    Whatever takes the path of a model file takes it: `ke.Predictor(pretrained_file("imagenet"))`.

    Args:
        name: as for `open_pretrained`.

    Raises:
        InputError: as `open_pretrained`.
    """
    if is_hub(name):
        *_, owner, repository = name.partition("@")[0].split("/")
        # The folder is called by the commit.
        kind = f"{owner}--{repository}-{fetch_hub(name).name}"
    else:
        entry = find_pretrained(name)
        name, kind = f"{entry.name}:{entry.variant}", f"{entry.variant.lower()}-{entry.name}"
    file = f"keras-efficientnet-{__version__}-{kind}.keras"
    path = Path(download.cache_folder(), "models", file)
    if not path.exists():
        network, description = open_pretrained(name)
        with atomic_write(path, overwrite=True) as unfinished:
            network.save(unfinished)
            write_description(unfinished, description)
    return path
