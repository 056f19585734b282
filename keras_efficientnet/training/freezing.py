"""Chooses which layers of a network are trained."""

import re

import keras

from keras_efficientnet.errors import InputError

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
        model: a network that a builder of this package returned.
        name: first part that is trained: a stage such as `"block6"`, a block such as
            `"block6b"`, a layer, `"head"` for the last convolution, `"classifier"` for the
            last layer alone, or `"stem"` for everything.

    Returns:
        The model itself.

    Raises:
        InputError: if the model has no such part.
    """
    first = _position(model, name)
    for index, layer in enumerate(model.layers):
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
    fresh = _position(model, fresh_from)
    unfreeze_from(model, name if _position(model, name) < fresh else fresh_from)
    for layer in model.layers[:fresh]:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.trainable = False


def _position(model: keras.Model, name: str) -> int:
    part = {"head": HEAD, "classifier": CLASSIFIER}.get(name, name)
    # A stage has blocks, and a stage, a block or the stem has layers.
    blocks = "[^0-9_]*" if re.fullmatch(r"block\d+", part) else ""
    belongs = re.compile(f"{re.escape(part)}{blocks}(_.*)?")
    names = [layer.name for layer in model.layers]
    first = next((index for index, layer in enumerate(names) if belongs.fullmatch(layer)), None)
    if first is None:
        known = dict.fromkeys(layer.split("_")[0] for layer in names if layer.startswith("block"))
        raise InputError(
            f"Model {model.name!r} has no part {name!r}; it has stem, {', '.join(known)}, head and "
            "classifier."
        )
    return first
