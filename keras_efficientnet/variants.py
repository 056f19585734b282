"""The builders people call: one function for each published network.

The numbers that differ between them stand in `spec.VARIANTS`; the options are the same
for all and documented once, at `EfficientNet`.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import keras

from keras_efficientnet import model, scaling
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.scaling import Variant
from keras_efficientnet.spec import Padding, Pixels
from keras_efficientnet.weights import keras_files, load_weights, registry

DEFAULT_WEIGHTS = "imagenet"
"""What the builders of networks with such weights load by default, as those of Keras do."""

_Options = ParamSpec("_Options")
# Options that say how the weights were trained.
_OF_WEIGHTS = ("padding", "pixels")


def EfficientNet(  # noqa: PLR0913 - those of keras.applications and more
    variant: Variant,
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    name: str | None = None,
    *,
    dropout_rate: float | None = None,
    drop_connect_rate: float | None = None,
    include_preprocessing: bool = True,
    padding: Padding | None = None,
    pixels: str | Pixels | None = None,
    batch_norm_epsilon: float | None = None,
) -> keras.Model:
    """Builds an EfficientNet as a functional Keras model.

    The options follow `keras.applications`, and the graph depends on them alone, never on
    `weights`.

    Args:
        variant: a name such as `"B0"`, `"V2-S"` or `"EfficientNetB0"`, a `VariantSpec`, or a
            `CompoundScale` from `scaling.compound_scale(phi)`.
        include_top: end in the pooled classifier rather than in the feature map.
        weights: None for fresh weights, the name of a published set such as `"imagenet"`
            (`weights.registry.table()` lists them), or the path of a weight file of any
            layout that `load_weights` accepts. With other `classes` the classifier stays
            fresh. The builders of one network each have `"imagenet"` for a default, as in Keras,
            where there are such weights.
        input_tensor: Keras tensor to build on.
        input_shape: `(height, width, channels)` without the batch; height and width at
            least 32 or None. By default the variant's resolution with three channels,
            or `(None, None, 3)` without the top.
        pooling: without the top, `"avg"` or `"max"` to pool the feature map globally.
        classes: outputs of the classifier.
        classifier_activation: of the classifier; None for logits.
        name: of the model; `efficientnetb0` and so on by default.
        dropout_rate: ahead of the classifier; the variant's own if None.
        drop_connect_rate: stochastic depth; block i of N drops an image's residual branch
            with probability `drop_connect_rate * i / N`. The variant's own if None.
        include_preprocessing: take raw RGB pixels in 0-255 and normalize them in the
            graph. If False, the input must be normalized already.
        padding: `"same"` as TensorFlow pads, or `"symmetric"` as PyTorch does, which weights
            trained there need; the variant's own if None. If `weights` is a file that does not
            say how it was trained, the three last arguments do.
        pixels: how raw pixels are normalized: the name of a published way, such as `"imagenet"`
            or `"inception"` (`spec.PIXELS` has them all), or mean and deviation of RGB values in
            0-255; the variant's own if None.
        batch_norm_epsilon: of every batch normalization; the variant's own if None.

    Returns:
        A model from `[batch, height, width, channels]` to `[batch, classes]`. Without the
        top, to the feature map `[batch, ceil(height / 32), ceil(width / 32), features]`,
        or to `[batch, features]` with `pooling`.

    Raises:
        InputError: if an option has a value that cannot be built or loaded.
    """
    accepted = "a text; all after it are given by their names"
    require(name is None or isinstance(name, str), "name", name, accepted)
    spec = scaling.get_variant(variant)
    changes: dict[str, Any] = {"padding": padding, "batch_norm_epsilon": batch_norm_epsilon}
    if pixels is not None:
        changes["pixel_mean"], changes["pixel_std"] = scaling.pixel_values(pixels)
    given = {name: value for name, value in changes.items() if value is not None}
    network = model.build(
        scaling.get_variant(dataclasses.replace(spec, **given)),
        include_top=include_top,
        input_tensor=input_tensor,
        input_shape=input_shape,
        pooling=pooling,
        classes=classes,
        classifier_activation=classifier_activation,
        dropout_rate=dropout_rate,
        drop_connect_rate=drop_connect_rate,
        include_preprocessing=include_preprocessing,
        name=name,
    )
    keras_files.guard(network)
    if weights is not None:
        load_weights(network, weights, padding=padding, pixels=pixels)
    return network


def _builder(
    variant_name: str,
    generic: Callable[Concatenate[Variant, _Options], keras.Model] = EfficientNet,
) -> Callable[_Options, keras.Model]:
    """Returns `EfficientNet` of one variant, with the same options.

    By default it has published weights where there are `DEFAULT_WEIGHTS` of it.
    """
    published = {entry.variant for entry in registry.table() if entry.name == DEFAULT_WEIGHTS}
    default = DEFAULT_WEIGHTS if variant_name in published else None

    def build(*args: _Options.args, **options: _Options.kwargs) -> keras.Model:
        network = generic(variant_name, *args, **options)
        if default is None or len(args) > 1 or "weights" in options:
            return network
        given: dict[str, Any] = {name: options.get(name) for name in _OF_WEIGHTS}
        try:
            load_weights(network, default, **given)
        except InputError as error:
            raise InputError(f"{error} Or pass weights=None for random weights.") from error
        return network

    variant = scaling.get_variant(variant_name)
    build.__name__ = build.__qualname__ = f"EfficientNet{variant_name.replace('-', '')}"
    build.__doc__ = (
        f"Builds EfficientNet-{variant_name}: {variant.resolution} px, width x{variant.width}, "
        f"depth x{variant.depth}.\n\nSee `EfficientNet` for the options."
    )
    # What help(), notebooks and inspect show; type checkers have it from `_Options`.
    signature = inspect.signature(generic)
    options = [
        option.replace(default=default) if option.name == "weights" else option
        for option in list(signature.parameters.values())[1:]
    ]
    build.__signature__ = signature.replace(parameters=options)  # pyright: ignore[reportFunctionMemberAccess]
    return build


EfficientNetB0 = _builder("B0")
EfficientNetB1 = _builder("B1")
EfficientNetB2 = _builder("B2")
EfficientNetB3 = _builder("B3")
EfficientNetB4 = _builder("B4")
EfficientNetB5 = _builder("B5")
EfficientNetB6 = _builder("B6")
EfficientNetB7 = _builder("B7")
EfficientNetB8 = _builder("B8")
EfficientNetL2 = _builder("L2")
EfficientNetLite0 = _builder("Lite0")
EfficientNetLite1 = _builder("Lite1")
EfficientNetLite2 = _builder("Lite2")
EfficientNetLite3 = _builder("Lite3")
EfficientNetLite4 = _builder("Lite4")
EfficientNetEdgeTPUS = _builder("EdgeTPU-S")
EfficientNetEdgeTPUM = _builder("EdgeTPU-M")
EfficientNetEdgeTPUL = _builder("EdgeTPU-L")
EfficientNetV2B0 = _builder("V2-B0")
EfficientNetV2B1 = _builder("V2-B1")
EfficientNetV2B2 = _builder("V2-B2")
EfficientNetV2B3 = _builder("V2-B3")
EfficientNetV2S = _builder("V2-S")
EfficientNetV2M = _builder("V2-M")
EfficientNetV2L = _builder("V2-L")
EfficientNetV2XL = _builder("V2-XL")
