"""Networks with published weights by name, ready to classify photos."""

import functools
import os
from pathlib import Path

import keras

from keras_efficientnet import model
from keras_efficientnet._version import __version__
from keras_efficientnet.description import ModelDescription, write_description
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write
from keras_efficientnet.spec import VariantSpec
from keras_efficientnet.weights import download, registry
from keras_efficientnet.weights.loading import load_weights
from keras_efficientnet.weights.registry import PretrainedWeights

# Its weights come with the package.
DEFAULT_VARIANT = "Lite0"
IMAGENET_CLASSES = 1000


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """Returns the 1,000 class names of ImageNet-1k, in the order of Keras and torchvision.

    Each is the first word of its WordNet synset, or two words where that would not be unique.
    """
    return tuple(Path(__file__).with_name("imagenet_classes.txt").read_text("utf-8").splitlines())


def is_pretrained(name: str | os.PathLike) -> bool:
    """Whether this names published weights, as `find_pretrained` takes it, and is no path."""
    known = {entry.name for entry in registry.table()}
    return isinstance(name, str) and name.partition(":")[0] in known and not os.path.exists(name)


def find_pretrained(name: str) -> PretrainedWeights:
    """Looks published weights up by one text.

    Args:
        name: of the weights, and a colon and the variant: `"noisy-student:B4"`. Without a
            variant, Lite0 is meant, or the only variant that has weights of that name.

    Raises:
        InputError: if there are none of that name.
    """
    kind, _, variant = name.partition(":")
    having = [entry.variant for entry in registry.table() if entry.name == kind]
    if not variant and DEFAULT_VARIANT not in having and len(having) > 1:
        raise InputError(
            f"weights={name!r} are published for several networks; add one of "
            f"{', '.join(having)}, as in '{kind}:{having[0]}'."
        )
    default = DEFAULT_VARIANT if DEFAULT_VARIANT in having else (*having, DEFAULT_VARIANT)[0]
    return registry.find(variant or default, kind)


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
