"""Looking into a weight file, and turning it into Keras' own format."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from keras_efficientnet import model, scaling
from keras_efficientnet.description import write_description
from keras_efficientnet.errors import InputError
from keras_efficientnet.files import atomic_write
from keras_efficientnet.scaling import Variant
from keras_efficientnet.spec import Padding, VariantSpec
from keras_efficientnet.weights import matching, structure
from keras_efficientnet.weights.matching import LoadReport
from keras_efficientnet.weights.pretrained import describe
from keras_efficientnet.weights.readers import open_weight_file
from keras_efficientnet.weights.registry import google_crop
from keras_efficientnet.weights.weight_file import Origin, WeightFile

OUTPUT_SUFFIXES = (".weights.h5", ".keras")


@dataclass(frozen=True)
class Inspection:
    """What a weight file holds.

    Attributes:
        path: of the file.
        layout: what kind of file it is.
        variant: the published variant its tensors are nearest to.
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
    variant: str
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
        variant, fits = structure.closest_variant(checkpoint)
        wanted = structure.shapes(variant)
        checkpoint = checkpoint.with_block_names(structure.block_names(wanted))
        return Inspection(
            path=checkpoint.path,
            layout=checkpoint.layout,
            variant=variant,
            fits=fits,
            missing=tuple(name for name in wanted if name not in checkpoint.tensors),
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
    prefix: str | None = None,
) -> LoadReport:
    """Turns a weight file into one of Keras, which is written whole or not at all.

    The network that carries the weights has the file's classes, input channels, padding
    and epsilon, and takes images of any size. A `.keras` file keeps all of these, and a
    description with the variant's image size and, of 1,000 classes, ImageNet's names.

    Args:
        source: a file that `load_weights` accepts.
        variant: which network it is of.
        output: path that ends in `.weights.h5` or `.keras`.
        overwrite: replace an existing output.
        padding: as in `load_weights`.
        prefix: as in `load_weights`.

    Returns:
        What was converted.

    Raises:
        InputError: if the file does not fit the variant, or the output cannot be written.
    """
    path = os.fspath(output)
    if not path.endswith(OUTPUT_SUFFIXES):
        raise InputError(f"output={path!r} must end in {' or '.join(OUTPUT_SUFFIXES)}.")
    with atomic_write(path, overwrite) as unfinished:
        return _convert(source, scaling.get_variant(variant), unfinished, padding, prefix)


def _convert(
    source: str | os.PathLike,
    variant: VariantSpec,
    path: Path,
    padding: Padding | None,
    prefix: str | None,
) -> LoadReport:
    found = inspect(source, prefix)
    network = model.build(
        _trained_as(variant, found.origin, padding),
        include_top=found.classes is not None,
        input_shape=(None, None, found.channels or 3),
        classes=found.classes or 1000,
    )
    with open_weight_file(source, prefix) as checkpoint:
        report, values = matching.read(network, checkpoint, padding=padding)
    matching.assign(network, values)
    if path.suffix == ".keras":
        network.save(path)
        crop_fraction = google_crop(variant.resolution)
        write_description(path, describe(variant, found.classes, crop_fraction))
    else:
        network.save_weights(path)
    return report


def _trained_as(variant: VariantSpec, origin: Origin, padding: Padding | None) -> VariantSpec:
    """The variant with everything that the file tells of how its weights were trained."""
    mean, std = origin.pixels or (variant.pixel_mean, variant.pixel_std)
    told = list(origin.epsilons)
    padding = padding or (told[0] if len(told) == 1 else variant.padding)
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
