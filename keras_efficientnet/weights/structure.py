"""The canonical name of every variable of a network, from a spec and from a model."""

import re
from collections.abc import Iterable
from typing import Any

import keras

from keras_efficientnet import layers, scaling, spec
from keras_efficientnet.errors import InputError
from keras_efficientnet.model import find_network as find_network
from keras_efficientnet.scaling import ConvSpec, Variant
from keras_efficientnet.weights.weight_file import WeightFile

STEM_KERNEL = "stem.conv.kernel"
CLASSIFIER_KERNEL = "classifier.kernel"
CLASSIFIER = (CLASSIFIER_KERNEL, "classifier.bias")
BATCH_NORM = ("gamma", "beta", "moving_mean", "moving_variance")

Shapes = dict[str, tuple[int, ...]]

_LAYERS = (
    (re.compile(r"stem_(conv|bn)"), r"stem.\1"),
    (re.compile(r"top_(conv|bn)"), r"head.\1"),
    (re.compile(r"predictions"), "classifier"),
    (re.compile(r"(block\d+[a-z]+)_(expand|project)_(conv|bn)"), r"\1.\2.\3"),
    (re.compile(r"(block\d+[a-z]+)_bn"), r"\1.depthwise.bn"),
    # keras.applications' V2 calls it dwconv2.
    (re.compile(r"(block\d+[a-z]+)_dwconv2?"), r"\1.depthwise.conv"),
    # Two layers in keras.applications, parts of one here.
    (re.compile(r"(block\d+[a-z]+)_se[_/](reduce|expand)"), r"\1.se.\2"),
)


def canonical_name(layer: str, variable: str) -> str | None:
    """Translates a Keras layer and variable; None if they are no part of an EfficientNet."""
    for pattern, replacement in _LAYERS:
        match = pattern.fullmatch(layer)
        if match:
            return f"{match.expand(replacement)}.{variable}"
    return None


def variables(model: keras.Model) -> dict[str, Any]:
    """A model's variables by canonical name, in the order of its layers.

    Raises:
        InputError: if it is not a network of this package.
    """
    found = {}
    for layer in model.layers:
        parts = (
            {f"{layer.name}/reduce": layer.reduce, f"{layer.name}/expand": layer.expand}
            if isinstance(layer, layers.SqueezeExcite)
            else {layer.name: layer}
        )
        for name, part in parts.items():
            for variable in part.weights:
                canonical = canonical_name(name, variable.name)
                if canonical:
                    found[canonical] = variable
    if STEM_KERNEL not in found:
        raise InputError(
            f"Model {model.name!r} has no EfficientNet layers of its own; pass the network that "
            "a keras_efficientnet builder returned."
        )
    return found


def block_names(names: Iterable[str]) -> tuple[str, ...]:
    """The blocks that occur in canonical names, in order."""
    blocks = (name.partition(".")[0] for name in names)
    return tuple(dict.fromkeys(block for block in blocks if block.startswith("block")))


def shapes(variant: Variant, channels: int = 3, classes: int = 1000) -> Shapes:
    """Every variable's shape, by canonical name, without building the network."""
    variant = scaling.get_variant(variant)
    found = _shapes("stem", scaling.stem_convolution(variant, channels))
    blocks = scaling.expand_blocks(variant)
    for block in blocks:
        inside, bottleneck = block.expanded_filters, block.se_filters
        for role, conv in scaling.block_convolutions(block)._asdict().items():
            if role == "project" and bottleneck:
                found[f"{block.name}.se.reduce.kernel"] = (1, 1, inside, bottleneck)
                found[f"{block.name}.se.reduce.bias"] = (bottleneck,)
                found[f"{block.name}.se.expand.kernel"] = (1, 1, bottleneck, inside)
                found[f"{block.name}.se.expand.bias"] = (inside,)
            if conv:
                found |= _shapes(f"{block.name}.{role}", conv)
    head = scaling.head_convolution(variant, blocks[-1].out_filters)
    found |= _shapes("head", head)
    return found | {CLASSIFIER_KERNEL: (head.out_filters, classes), CLASSIFIER[1]: (classes,)}


def _shapes(part: str, conv: ConvSpec) -> Shapes:
    norm = {f"{part}.bn.{name}": (conv.out_filters,) for name in BATCH_NORM}
    return {f"{part}.conv.kernel": conv.kernel_shape, **norm}


def closest_variant(checkpoint: WeightFile) -> tuple[str, float]:
    """The published variant whose structure is nearest to a file's.

    Returns:
        Its name, and the share of the file's tensors that fit it, whatever its number of classes
        and input channels. A file that lacks some tensors can still fit, with a share of 1.
    """

    def misfits(name: str) -> tuple[int, int]:
        wanted = shapes(name)
        named = checkpoint.with_block_names(block_names(wanted))
        wrong = sum(
            not fits(key, tensor.shape, wanted.get(key)) for key, tensor in named.tensors.items()
        )
        return wrong, len(wanted.keys() - named.tensors.keys())

    scores = {name: misfits(name) for name in spec.VARIANTS}
    name = min(scores, key=lambda key: sum(scores[key]))
    return name, 1 - scores[name][0] / max(1, len(checkpoint.tensors))


def matching_variant(model: keras.Model) -> str | None:
    """The published variant with the structure of a model; None if there is none."""
    found = {name: tuple(v.shape) for name, v in variables(model).items()}
    for name in spec.VARIANTS:
        wanted = shapes(name)
        if (
            wanted.keys() - found.keys() <= set(CLASSIFIER)
            and found.keys() <= wanted.keys()
            and all(fits(key, shape, wanted[key]) for key, shape in found.items())
        ):
            return name
    return None


def fits(name: str, shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> bool:
    """Whether a tensor has the wanted shape, or one that loading can adapt to it."""
    if wanted is None or len(shape) != len(wanted):
        return False
    free = {STEM_KERNEL: (2,), CLASSIFIER_KERNEL: (1,), CLASSIFIER[1]: (0,)}.get(name, ())
    return all(
        a == b or axis in free for axis, (a, b) in enumerate(zip(shape, wanted, strict=True))
    )
