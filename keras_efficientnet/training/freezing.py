"""Chooses which layers of a network are trained, and how fast."""

import itertools
import re
from collections.abc import Iterable
from typing import Any

import keras

from keras_efficientnet.errors import InputError, require
from keras_efficientnet.model import find_network

HEAD = "top_conv"
CLASSIFIER = "predictions"


def freeze_batch_norm(model: keras.Model) -> keras.Model:
    """Freezes every batch normalization of a model and of models inside it.

    A frozen one normalizes with its moving statistics in training too, and neither
    they nor its scale and offset change. This is what fine-tuning on small batches
    needs. Compile the model afterwards.

    Returns:
        The model itself.
    """
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False
        elif isinstance(layer, keras.Model):
            freeze_batch_norm(layer)
    return model


def unfreeze_from(model: keras.Model, name: str) -> keras.Model:
    """Makes a part of a network and all layers after it trainable, and freezes all before it.

    Batch normalization there is trained too: call `freeze_batch_norm` afterwards to keep its
    statistics. Compile the model afterwards.

    Args:
        model: a network that a builder of this package returned, or a model with one inside, at
            any depth. What the model does after the network is trained too.
        name: first part that is trained: a stage such as `"block6"`, a block such as
            `"block6b"`, a layer, `"head"` for the last convolution, `"classifier"` for the
            last layer alone, or `"stem"` for everything.

    Returns:
        The model itself.

    Raises:
        InputError: if the model has no such part, or no network of this package, or several.
    """
    path = _path(model, find_network(model))
    layers = _flat(path)
    first = _position(model.name, layers, name)
    for around in path:  # a frozen model freezes all that is inside
        around.trainable = True
    for index, layer in enumerate(layers):
        layer.trainable = index >= first
    return model


def fine_tune_from(model: keras.Model, name: str, fresh_from: str) -> None:
    """Makes the layers trainable that one phase of fine-tuning trains.

    All layers without pretrained weights are, and batch normalization before them is frozen.

    Args:
        model: a network that a builder of this package returned.
        name: first part that is trained at the latest, as for `unfreeze_from`.
        fresh_from: first part without pretrained weights, as for `unfreeze_from`.

    Raises:
        InputError: if the model has no such part.
    """
    layers = _flat(_path(model, find_network(model)))
    fresh = _position(model.name, layers, fresh_from)
    unfreeze_from(model, name if _position(model.name, layers, name) < fresh else fresh_from)
    for layer in layers[:fresh]:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def settle_statistics(model: keras.Model, batches: Iterable[Any], count: int = 8) -> None:
    """Gives batch normalization without pretrained weights the statistics of some batches.

    Layers of random weights pass on what the layers before them found, as long as their
    normalization fits.

    Args:
        model: whose batch normalizations that are not frozen are meant.
        batches: of images as the model takes them.
        count: of batches to average over.
    """
    meant = [
        layer
        for layer in model.layers
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    before = [layer.momentum for layer in meant]
    for index, pixels in enumerate(itertools.islice(batches, count)):
        for layer in meant:
            layer.momentum = index / (index + 1)  # the plain mean of all batches so far
        model(pixels, training=True)
    for layer, momentum in zip(meant, before, strict=True):
        layer.momentum = momentum


def layer_rates(model: keras.Model, decay: float) -> list[float]:
    """Returns a share of the learning rate for each trainable variable, smaller in earlier blocks.

    The classifier has the whole rate, the last convolution `decay` times that, the last block
    `decay ** 2` times, and so on back to the stem (layer-wise learning-rate decay: Clark et al.,
    "ELECTRA", https://arxiv.org/abs/2003.10555, section A).

    Args:
        model: a network that a builder of this package returned.
        decay: factor from one part to the part before it, above 0 and at most 1.

    Returns:
        One factor for each of `model.trainable_variables`, in their order; for
        `LayerwiseAdamW(rate_factors=...)`.

    Raises:
        InputError: if `decay` is out of range.
    """
    require(0 < decay <= 1, "decay", decay, "above 0 and at most 1")
    parts = list(dict.fromkeys(_part(layer.name) for layer in model.layers))
    depth = {name: len(parts) - 1 - index for index, name in enumerate(parts)}
    factors = {
        id(variable): decay ** depth[_part(layer.name)]
        for layer in model.layers
        for variable in layer.trainable_variables
    }
    return [factors[id(variable)] for variable in model.trainable_variables]


def _part(layer_name: str) -> str:
    """Returns the stem, a block such as `"block2a"`, the head or the classifier."""
    part = layer_name.partition("_")[0]
    return part if part.startswith(("block", "top", CLASSIFIER)) else "stem"


def _path(model: Any, network: keras.Model) -> list[Any]:
    """Returns a model, the models inside of it that lead to a network, and the network."""
    if model is network:
        return [model]
    inner = (layer for layer in model.layers if isinstance(layer, keras.Model))
    path = next(filter(None, (_path(layer, network) for layer in inner)), [])
    return [model, *path] if path else []


def _flat(path: list[Any]) -> list[keras.layers.Layer]:
    """Returns a model's layers, with those of the network in the place of what it is inside of."""
    layers = list(path[-1].layers)
    for around, inside in reversed(list(itertools.pairwise(path))):
        index = around.layers.index(inside)
        layers = [*around.layers[:index], *layers, *around.layers[index + 1 :]]
    return layers


def _position(model_name: str, layers: list[keras.layers.Layer], name: str) -> int:
    part = {"head": HEAD, "classifier": CLASSIFIER}.get(name, name)
    # A stage has blocks, and a stage, a block or the stem has layers.
    blocks = "[^0-9_]*" if re.fullmatch(r"block\d+", part) else ""
    belongs = re.compile(f"{re.escape(part)}{blocks}(_.*)?")
    names = [layer.name for layer in layers]
    first = next((index for index, layer in enumerate(names) if belongs.fullmatch(layer)), None)
    if first is None:
        words = {"stem": "stem", HEAD: "head", CLASSIFIER: "classifier"}
        parts = (HEAD if layer == HEAD else layer.split("_")[0] for layer in names)
        known = [words.get(x, x) for x in dict.fromkeys(parts) if x in words or "block" in x]
        raise InputError(
            f"Model {model_name!r} has no part {name!r}; it has {', '.join(known[:-1])} and "
            f"{known[-1]}."
        )
    return first
