"""Networks of other packages with random weights, to compare this package's with."""

import importlib.util
from typing import Any

import keras
import numpy as np

APPLICATIONS = {
    **{f"B{i}": f"EfficientNetB{i}" for i in range(8)},
    **{f"V2-{name}": f"EfficientNetV2{name}" for name in ("B0", "B1", "B2", "B3", "S", "M", "L")},
}
# Projections feed the residual connections: with more gain a deep network amplifies
# float32's noise until outputs cannot be compared, with less the image no longer matters.
GAIN_WITH_SE = 1.3
GAIN_FUSED = 0.5
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def random_value(
    name: str, shape: tuple[int, ...], projection_gain: float, rng: np.random.Generator
) -> np.ndarray:
    """A value for a variable that lets activations neither die out nor explode."""
    if name in ("gamma", "moving_variance"):
        return rng.uniform(0.8, 1.25, shape).astype("float32")
    if len(shape) < 2:
        return rng.normal(0, 0.02, shape).astype("float32")
    fan_in = shape[0] * shape[1] if name == "depthwise" else int(np.prod(shape[:-1]))
    gain = projection_gain if shape[-1] < shape[-2] else 2.0
    return rng.standard_normal(shape, "float32") * np.float32(np.sqrt(gain / fan_in))


def randomize(model: keras.Model, seed: int = 0) -> keras.Model:
    """Gives every variable a random value, batch normalization's statistics included."""
    rng = np.random.default_rng(seed)
    fused = not any("block1a_dwconv" in layer.name for layer in model.layers)
    gain = GAIN_FUSED if fused else GAIN_WITH_SE
    for layer in model.layers:
        depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
        if isinstance(layer, keras.layers.Normalization):
            continue
        for variable in layer.weights:
            name = "depthwise" if depthwise else variable.name
            variable.assign(random_value(name, tuple(variable.shape), gain, rng))
    return model


def application(variant: str, size: int = 64, seed: int = 0, **options: Any) -> keras.Model:
    """keras.applications' network with random weights and ImageNet's pixel statistics."""
    options = {"classifier_activation": None, "input_shape": (size, size, 3), **options}
    model = getattr(keras.applications, APPLICATIONS[variant])(weights=None, **options)
    for layer in model.layers:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
            layer.adapt_mean.assign(np.array(IMAGENET_MEAN, "float32"))
            layer.adapt_variance.assign(np.array(IMAGENET_STD, "float32") ** 2)
            layer.finalize_state()
    return randomize(model, seed)


def copy_application(peer: keras.Model, model: keras.Model) -> None:
    """Copies a keras.applications network's variables into this package's, by layer name."""
    for layer in model.layers:
        if layer.name.endswith("_se"):
            for part in ("reduce", "expand"):
                source = peer.get_layer(f"{layer.name}_{part}")
                getattr(layer, part).set_weights(source.get_weights())
        elif layer.weights:
            name = layer.name
            if name.endswith("dwconv") and any(other.name == f"{name}2" for other in peer.layers):
                name += "2"
            layer.set_weights(peer.get_layer(name).get_weights())


def images(size: int = 64, batch: int = 2, channels: int = 3, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 255, (batch, size, size, channels)).astype("f4")


def outputs(model: keras.Model, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(model(pixels, training=False))


def relative_difference(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference over the largest expected value."""
    assert actual.shape == expected.shape
    assert np.isfinite(expected).all()
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def have(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)
