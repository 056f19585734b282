"""Names of Keras layers: keras.applications' networks, V1 and V2, and this package's."""

import re
from typing import Any

from keras_efficientnet.scaling import rgb
from keras_efficientnet.spec import IMAGENET_MEAN, IMAGENET_STD, Padding, Pixels
from keras_efficientnet.weights.structure import canonical_name
from keras_efficientnet.weights.weight_file import Origin, Tensor, Translation

ANCHOR = re.compile(r"(?:.+/)?(?P<anchor>stem_conv/kernel)")
LABEL = "Keras layer names"

# Keras numbers the layers that nobody names, over all models of a process.
_PIXEL_STATISTICS = re.compile(r"normalization(?:_\d+)?/(mean|variance)")


def translate(tensors: dict[str, Tensor], layers: list[dict] | None = None) -> Translation:
    """Translates `layer/variable`; `layers` are the layers' configs where the file has them."""
    found, unknown = {}, []
    for name, tensor in tensors.items():
        layer, _, variable = name.rpartition("/")
        canonical = canonical_name(layer, variable.replace("depthwise_kernel", "kernel"))
        if canonical:
            found[canonical] = tensor
        elif not layer.startswith("normalization"):
            unknown.append(name)
    return Translation(found, unknown, _origin(tensors, layers))


def _origin(tensors: dict[str, Tensor], layers: list[dict] | None) -> Origin:
    """Of Keras' networks only this package's can pad symmetrically, by layers it names so."""
    if layers is None:
        return Origin(pixels=_stored_pixels(tensors))
    configs = {
        layer["config"].get("name"): layer["config"] for layer in layers if "config" in layer
    }
    pixels = _stored_pixels(tensors)
    mean = configs.get("normalize", {}).get("mean", ())
    if len(mean) == 3:
        pixels = rgb(mean), rgb(configs["normalize"]["std"])
    padding: Padding = "symmetric" if "stem_pad" in configs else "same"
    return Origin({padding: configs.get("stem_bn", {}).get("epsilon")}, pixels)


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
