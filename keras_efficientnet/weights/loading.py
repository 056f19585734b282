"""Fills a model from published weights or from a file."""

import dataclasses
import os
from pathlib import Path

import keras

from keras_efficientnet import scaling
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.spec import Padding, Pixels
from keras_efficientnet.weights import matching, registry, structure
from keras_efficientnet.weights.download import fetch
from keras_efficientnet.weights.matching import LoadReport
from keras_efficientnet.weights.readers import open_weight_file
from keras_efficientnet.weights.weight_file import Origin


def load_weights(
    model: keras.Model,
    source: str | os.PathLike,
    strict: bool = True,
    padding: Padding | None = None,
    pixels: str | Pixels | None = None,
    prefix: str | None = None,
) -> LoadReport:
    """Fills a model's variables from published weights or from a file.

    A file is recognised by what it contains: `.h5`, `.weights.h5` and `.keras` of
    keras.applications' networks, of this package's, of KerasHub and of the packages
    `efficientnet` and `keras_efficientnet_v2`, Google's TensorFlow checkpoints (moving averages
    preferred), SavedModels, and PyTorch state dicts of EfficientNet-PyTorch, timm, torchvision and
    Hugging Face transformers as `.safetensors`, `.npz` or `.pth`, whatever a training script
    wrapped around them. PyTorch is not needed, and no code in a file is ever run.

    A model with another number of classes keeps its fresh classifier; one with another
    number of input channels gets an adapted stem kernel (`matching.adapt_channels`); a
    model without its top leaves the file's classifier out.

    Args:
        model: a network that a builder of this package returned, or a model with one inside.
        source: a name from `weights.registry`, such as `"imagenet"`, or a path: of a
            file, of the folder of a SavedModel or of a model of the Hugging Face Hub, or a
            TensorFlow checkpoint's prefix; or `"hf://owner/name"`, which downloads from the
            Hub (extra `hub`) and takes what its configuration says of pixels and padding.
        strict: raise unless every variable and every tensor has its counterpart and the
            model computes what the weights were trained for. Otherwise load what fits,
            and say in the report what did not.
        padding: that the weights were trained with, `"same"` or `"symmetric"`, for files that
            do not say.
        pixels: that the weights were trained on, for files that do not say: a name such as
            `"imagenet"` (`spec.PIXELS` has them all), or mean and deviation in 0-255.
        prefix: for a file of several networks, the name of the one to take, as the message
            about it lists them.

    Returns:
        What was loaded, adapted, missing, unexpected and mismatched.

    Raises:
        InputError: if the source cannot be had, read or trusted, or does not fit. The
            model is then as it was.
    """
    accepted = "None, the name of published weights or the path of a file"
    require(isinstance(source, str | os.PathLike), "weights", source, accepted)
    known = (None, "same", "symmetric")
    require(padding in known, "padding", padding, "None, 'same' or 'symmetric'")
    network = structure.find_network(model)
    if isinstance(source, str) and _is_name(source):
        return _load_published(network, source, strict)
    with open_weight_file(source, prefix) as checkpoint:
        report, values = matching.read(
            network, checkpoint, strict, padding, scaling.pixel_values(pixels) if pixels else None
        )
    matching.assign(network, values)
    return report


def _is_name(source: str) -> bool:
    """Anything that looks like a path is one, so that a mistyped path is called missing."""
    looks_like_a_path = os.sep in source or Path(source).suffix
    return not (looks_like_a_path or os.path.exists(source) or os.path.exists(f"{source}.index"))


def _load_published(model: keras.Model, name: str, strict: bool) -> LoadReport:
    variables = structure.variables(model)
    variant = structure.matching_variant(model)
    if variant is None:
        raise InputError(
            f"weights={name!r}: {model.name!r} has no published variant's structure; pass the "
            "path of a file that fits it."
        )
    published = registry.find(variant, name)
    origin = Origin({published.padding: published.batch_norm_epsilon}, published.pixels)
    # Before the download: a mismatch shows from the registry alone.
    differences, arguments = matching.compare_settings(model, origin)
    if strict and differences:
        raise InputError(
            f"weights={name!r} of EfficientNet-{variant} do not suit {model.name!r}: "
            f"{'; '.join(differences.values())}; {matching.suggestion(variant, name, arguments)}."
        )
    path = fetch(published, include_top=structure.CLASSIFIER_KERNEL in variables)
    with open_weight_file(path) as checkpoint:
        report, values = matching.read(
            model, dataclasses.replace(checkpoint, origin=origin), strict
        )
    matching.assign(model, values)
    return report
