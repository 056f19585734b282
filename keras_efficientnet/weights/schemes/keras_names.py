"""Names of Keras layers: keras.applications' networks, V1 and V2, and this package's.

And those of their relatives: KerasHub, whose networks pad as PyTorch does, and the packages
`efficientnet` (qubvel) and `keras_efficientnet_v2` (leondgarse), which pad as TensorFlow does.
"""

import re
from dataclasses import replace
from typing import Any

from keras_efficientnet.scaling import letters, rgb
from keras_efficientnet.spec import IMAGENET_MEAN, IMAGENET_STD, Padding, Pixels
from keras_efficientnet.weights.structure import canonical_name
from keras_efficientnet.weights.weight_file import Origin, Tensor, Translation

ANCHOR = re.compile(r"(?:.+/)?(?P<anchor>stem_conv/kernel)")
LABEL = "Keras layer names"

# What the relatives call layers otherwise.
_ALIASES = (
    (re.compile(r"probs"), "predictions"),
    (re.compile(r"(block\d+[a-z]+)_dwconv_bn"), r"\1_bn"),
    (re.compile(r"(block\d+[a-z]+)_(?:project|conv)"), r"\1_project_conv"),
    (re.compile(r"post_(conv|bn)"), r"top_\1"),
)
_LEONDGARSE = re.compile(r"stack_(\d+)_block(\d+)_(\w+?)_(conv|bn)?")
_LEONDGARSE_PARTS = {
    "sortcut": "expand_{}",
    "MB_dw": "{}",
    "se_1": "se/reduce",
    "se_2": "se/expand",
    "fu": "project_{}",
    "MB_pw": "project_{}",
}
_KERAS_HUB_EPSILON = 1e-5
# Its V2 pads before fused convolutions alone.
_HUB_V2 = re.compile(r"block\d+[a-z]+_/block\d+[a-z]+_dwconv2/")
_PLAIN_BLOCK = re.compile(r"(?:^|/)(?P<block>block\d+[a-z]+)_conv/")

# Keras numbers the layers that nobody names, over all models of a process.
_PIXEL_STATISTICS = re.compile(r"normalization(?:_\d+)?/(mean|variance)")


def translate(tensors: dict[str, Tensor], layers: list[dict] | None = None) -> Translation:
    """Translates `layer/variable`; `layers` are the layers' configs where the file has them."""
    found, unknown = {}, []
    # In KerasHub's blocks of a convolution alone, its normalization is called as a depthwise one's.
    plain = {match["block"] for name in tensors if (match := _PLAIN_BLOCK.search(name))}
    for name, tensor in tensors.items():
        layer, _, variable = name.rpartition("/")
        variable = variable.replace("depthwise_kernel", "kernel")
        # KerasHub's V2 has each block as a layer with layers inside.
        inner = layer.rpartition("/")[2]
        if inner.removesuffix("_bn") in plain:
            inner = inner.replace("_bn", "_project_bn")
        names = (layer, inner)
        canonical = next(
            filter(None, (canonical_name(_own_name(x), variable) for x in names)), None
        )
        if canonical:
            found[canonical] = tensor
        elif not layer.startswith("normalization"):
            unknown.append(name)
    origin = replace(_origin(tensors, layers), pads_in_two_ways=any(map(_HUB_V2.search, tensors)))
    return Translation(found, unknown, origin)


def _own_name(layer: str) -> str:
    """Returns what this package calls a layer of a relative."""
    if match := _LEONDGARSE.fullmatch(layer):
        part = _LEONDGARSE_PARTS.get(match[3], "").format(match[4] or "dwconv")
        return f"block{int(match[1]) + 1}{letters(int(match[2]))}_{part}"
    for pattern, replacement in _ALIASES:
        if match := pattern.fullmatch(layer):
            return match.expand(replacement)
    return layer


def _origin(tensors: dict[str, Tensor], layers: list[dict] | None) -> Origin:
    """Tells padding, epsilon and pixels from the layers, as far as they are known.

    Symmetric padding is a layer of its own in this package and in leondgarse's; KerasHub's
    layer is also keras.applications' for TensorFlow's padding in V1.
    """
    if layers is None:
        return Origin(pixels=_stored_pixels(tensors))
    configs = {
        layer["config"].get("name"): layer["config"] for layer in layers if "config" in layer
    }
    pixels = _stored_pixels(tensors)
    mean = configs.get("normalize", {}).get("mean", ())
    if len(mean) == 3:
        pixels = rgb(mean), rgb(configs["normalize"]["std"])
    v1_of_keras = "block1a_dwconv" in configs and "block1a_dwconv_bn" not in configs
    keras_hub = "stem_conv_pad" in configs and not v1_of_keras
    padding: Padding = "symmetric" if "stem_pad" in configs or keras_hub else "same"
    epsilon = configs.get("stem_bn", {}).get("epsilon", _KERAS_HUB_EPSILON if keras_hub else None)
    return Origin({padding: epsilon}, pixels)


def _stored_pixels(tensors: dict[str, Tensor]) -> Pixels | None:
    """What keras.applications' V1 does to pixels, from the statistics it keeps as weights.

    Its Normalization layer takes mean and variance of pixels in 0-1. In the published
    files the variance is a standard deviation by mistake, which the graph of
    `weights="imagenet"` makes good by one more division.
    """
    found = {
        match[1]: tensor.read().ravel()
        for name, tensor in tensors.items()
        if (match := _PIXEL_STATISTICS.fullmatch(name))
    }
    mean, variance = found.get("mean"), found.get("variance")
    if mean is None or variance is None or mean.size != 3 or not (variance > 0).all():
        return None
    std = variance**0.5
    published = [value / 255 for value in IMAGENET_STD]
    if _close(mean, [value / 255 for value in IMAGENET_MEAN]) and _close(variance, published):
        std = variance
    return rgb(mean * 255), rgb(std * 255)


def _close(values: Any, wanted: list[float]) -> bool:
    return all(abs(a - b) <= 1e-3 * b for a, b in zip(values, wanted, strict=True))
