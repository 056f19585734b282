"""Looking into a weight file, and turning it into Keras' own format."""

import dataclasses
import os
from dataclasses import dataclass

import keras

from keras_efficientnet import model, scaling
from keras_efficientnet.description import ModelDescription, write_description
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write
from keras_efficientnet.scaling import Variant
from keras_efficientnet.spec import Interpolation, Padding, Pixels, VariantSpec
from keras_efficientnet.weights import matching, structure
from keras_efficientnet.weights.imagenet import IMAGENET_CLASSES, imagenet_classes
from keras_efficientnet.weights.matching import LoadReport
from keras_efficientnet.weights.readers import open_weight_file
from keras_efficientnet.weights.registry import google_evaluation
from keras_efficientnet.weights.weight_file import Origin, WeightFile

# Share of a file's tensors that fit a variant, from which it is said to be near.
NEAR = 0.5
OUTPUT_SUFFIXES = (".weights.h5", ".keras")


@dataclass(frozen=True)
class Inspection:
    """What a weight file holds.

    Attributes:
        path: of the file.
        layout: what kind of file it is.
        variant: the published variant its tensors are nearest to; None where less than half of
            them fit.
        fits: whether all of its tensors fit that variant.
        missing: what the variant has and the file has not.
        classes: outputs of its classifier; None if it has none.
        channels: of its input; None if it has no stem kernel.
        tensors: shapes by canonical name.
        unknown: names that are no part of an EfficientNet.
        origin: how the weights were trained, as far as the file tells.
    """

    path: str
    layout: str
    variant: str | None
    fits: bool
    missing: tuple[str, ...]
    classes: int | None
    channels: int | None
    tensors: dict[str, tuple[int, ...]]
    unknown: tuple[str, ...]
    origin: Origin


def inspect(source: str | os.PathLike, prefix: str | None = None) -> Inspection:
    """Says what a weight file holds, without a model.

    Args:
        source: a file that `load_weights` accepts.
        prefix: as in `load_weights`.

    Raises:
        InputError: if it cannot be read or is no EfficientNet's.
    """
    with open_weight_file(source, prefix) as checkpoint:
        variant, fitting = structure.closest_variant(checkpoint)
        wanted = structure.shapes(variant)
        checkpoint = checkpoint.with_block_names(structure.block_names(wanted))
        return Inspection(
            path=checkpoint.path,
            layout=checkpoint.layout,
            variant=variant if fitting >= NEAR else None,
            fits=fitting == 1,
            missing=tuple(
                name for name in wanted if fitting >= NEAR and name not in checkpoint.tensors
            ),
            classes=_size(checkpoint, structure.CLASSIFIER_KERNEL, 1),
            channels=_size(checkpoint, structure.STEM_KERNEL, 2),
            tensors={name: tensor.shape for name, tensor in checkpoint.tensors.items()},
            unknown=checkpoint.unknown,
            origin=checkpoint.origin,
        )


def convert(
    source: str | os.PathLike,
    variant: Variant,
    output: str | os.PathLike,
    overwrite: bool = False,
    padding: Padding | None = None,
    pixels: str | Pixels | None = None,
    prefix: str | None = None,
) -> LoadReport:
    """Turns a weight file into one of Keras, which is written whole or not at all.

    The network that carries the weights has the file's classes, input channels, padding
    and epsilon, and takes images of any size. A `.keras` file keeps all of these, and a
    description with image size, crop, interpolation and class names: those of the
    configuration beside the file, and without one the variant's size, what Google evaluates it
    with and, of 1,000 classes, ImageNet's names.

    Args:
        source: a file that `load_weights` accepts.
        variant: which network it is of.
        output: path that ends in `.weights.h5` or `.keras`.
        overwrite: replace an existing output.
        padding: as in `load_weights`.
        pixels: as in `load_weights`.
        prefix: as in `load_weights`.

    Returns:
        What was converted.

    Raises:
        InputError: if the file does not fit the variant, or the output cannot be written.
    """
    path = os.fspath(output)
    if not path.endswith(OUTPUT_SUFFIXES):
        raise InputError(f"output={path!r} must end in {' or '.join(OUTPUT_SUFFIXES)}.")
    variant = scaling.get_variant(variant)
    told = scaling.pixel_values(pixels) if pixels else None
    with atomic_write(path, overwrite) as unfinished, open_weight_file(source, prefix) as file:
        network, report, description = build_from(file, variant, padding, told)
        if path.endswith(".keras"):
            network.save(unfinished)
            write_description(unfinished, description)
        else:
            network.save_weights(unfinished)
    return report


def build_from(
    file: WeightFile,
    variant: VariantSpec,
    padding: Padding | None = None,
    pixels: Pixels | None = None,
) -> tuple[keras.Model, LoadReport, ModelDescription]:
    """Builds the network that a file's weights were trained in, and fills it.

    Args:
        file: an open file.
        variant: which network it is of.
        padding: as in `load_weights`.
        pixels: as in `load_weights`.

    Returns:
        A network of images of any size, what was loaded, and how the network is to be used.

    Raises:
        InputError: if the file does not fit the variant.
    """
    trained = trained_as(variant, file.origin.completed(padding, pixels))
    classes = _size(file, structure.CLASSIFIER_KERNEL, 1)
    network = model.build(
        trained,
        include_top=classes is not None,
        input_shape=(None, None, _size(file, structure.STEM_KERNEL, 2) or 3),
        classes=classes or 1000,
    )
    report, values = matching.read(network, file, padding=padding, pixels=pixels)
    matching.assign(network, values)
    usage, usual = file.usage, google_evaluation(variant)
    description = describe(
        dataclasses.replace(variant, resolution=usage.size or variant.resolution),
        classes,
        usage.crop_fraction or usual["crop_fraction"],
        usage.interpolation or usual["interpolation"],
    )
    names = usage.class_names if len(usage.class_names) == classes else description.class_names
    return network, report, dataclasses.replace(description, class_names=names)


def describe(
    variant: VariantSpec, classes: int | None, crop_fraction: float, interpolation: Interpolation
) -> ModelDescription:
    """Describes a network that has the preprocessing inside; 1,000 classes are ImageNet's."""
    return ModelDescription(
        variant=variant.name,
        class_names=imagenet_classes() if classes == IMAGENET_CLASSES else (),
        image_size=variant.resolution,
        crop_fraction=crop_fraction,
        pixel_mean=(0.0,),
        pixel_std=(1.0,),
        interpolation=interpolation,
    )


def trained_as(variant: VariantSpec, origin: Origin) -> VariantSpec:
    """Returns the variant with everything that is known of how its weights were trained."""
    mean, std = origin.pixels or (variant.pixel_mean, variant.pixel_std)
    paddings = list(origin.epsilons)
    padding = paddings[0] if len(paddings) == 1 else variant.padding
    return dataclasses.replace(
        variant,
        pixel_mean=mean,
        pixel_std=std,
        padding=padding,
        batch_norm_epsilon=origin.epsilons.get(padding) or variant.batch_norm_epsilon,
    )


def _size(checkpoint: WeightFile, name: str, axis: int) -> int | None:
    tensor = checkpoint.tensors.get(name)
    return tensor.shape[axis] if tensor is not None else None
