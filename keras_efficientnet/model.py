"""From a list of blocks to a Keras graph: stem, blocks, head.

From small to large: one convolution, one block, the network. `build` knows architecture
only. Where weights come from is `weights`' business, and nothing about it changes the graph.
Shapes in the comments are channels-last: B images of height H and width W.
"""

import re
from collections.abc import Iterator
from typing import Any

import keras

from keras_efficientnet import layers, scaling
from keras_efficientnet.errors import InputError, require, require_range
from keras_efficientnet.scaling import BlockSpec, ConvSpec
from keras_efficientnet.spec import VariantSpec
from keras_efficientnet.variable_names import named_after_creation

MIN_IMAGE_SIZE = 32

# TPU, efficientnet_builder.py: normal with variance 2 / fan_out, not truncated.
_CONV_INITIALIZER: Any = {
    "class_name": "VarianceScaling",
    "config": {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"},
}
# Uniform within +-1 / sqrt(outputs).
_DENSE_INITIALIZER: Any = {
    "class_name": "VarianceScaling",
    "config": {"scale": 1 / 3, "mode": "fan_out", "distribution": "uniform"},
}
_BLOCK_END = re.compile(r"block\d+[a-z]+_(project_bn|project_activation|add)")


def _conv(x, variant: VariantSpec, prefix: str, conv: ConvSpec):
    """Convolution without bias, batch normalization, activation."""
    options: dict[str, Any] = {
        "kernel_size": conv.kernel_size,
        "strides": conv.stride,
        "padding": "same",
        "use_bias": False,
    }
    if variant.padding == "symmetric" and conv.stride > 1:
        # At stride 1 an odd kernel's "same" padding is symmetric already.
        x = keras.layers.ZeroPadding2D(conv.kernel_size // 2, name=f"{prefix}_pad")(x)
        options["padding"] = "valid"
    if conv.depthwise:
        convolve = layers.DepthwiseConv2D(
            **options, depthwise_initializer=_CONV_INITIALIZER, name=f"{prefix}_dwconv"
        )
    else:
        convolve = layers.Conv2D(
            conv.out_filters,
            **options,
            kernel_initializer=_CONV_INITIALIZER,
            name=f"{prefix}_conv",
        )
    x = convolve(x)  # [B, H/stride, W/stride, out_filters]
    x = layers.BatchNormalization(
        axis=_channel_axis(),
        momentum=variant.batch_norm_momentum,
        epsilon=variant.batch_norm_epsilon,
        name=f"{prefix}_bn",
    )(x)
    if not conv.activated:
        return x
    if variant.activation == "swish":
        return layers.Swish(name=f"{prefix}_activation")(x)
    return keras.layers.Activation(variant.activation, name=f"{prefix}_activation")(x)


def _block(x, variant: VariantSpec, block: BlockSpec, drop_rate: float):
    """Expand, convolve depthwise, squeeze and excite, project, add.

    The shapes are MBConv's. A fused block strides in its full convolution, which is its
    expansion, or its projection where nothing expands.
    """
    inputs, name = x, block.name  # [B, H, W, in_filters]
    expand, depthwise, project = scaling.block_convolutions(block)
    if expand:
        x = _conv(x, variant, f"{name}_expand", expand)  # [B, H, W, expanded_filters]
    if depthwise:
        x = _conv(x, variant, name, depthwise)  # [B, H/stride, W/stride, expanded_filters]
    if block.se_filters:
        excite = layers.SqueezeExcite(
            block.se_filters,
            activation=variant.activation,
            kernel_initializer=_CONV_INITIALIZER,
            name=f"{name}_se",
        )
        x = excite(x)  # [B, H/stride, W/stride, expanded_filters]
    x = _conv(x, variant, f"{name}_project", project)  # [B, H/stride, W/stride, out_filters]
    if not block.skip:
        return x
    if drop_rate:
        x = layers.StochasticDepth(drop_rate, name=f"{name}_drop")(x)
    # The skip first: Keras walks graphs back from their end by recursion, which along the long
    # way of a thousand layers (V2-XL) is deeper than Python allows.
    return keras.layers.Add(name=f"{name}_add")([inputs, x])  # [B, H, W, out_filters]


@named_after_creation()
def build(  # noqa: PLR0913 - the options of keras.applications, and those of the paper
    variant: VariantSpec,
    *,
    include_top: bool = True,
    input_tensor: Any = None,
    input_shape: tuple[int | None, ...] | None = None,
    pooling: str | None = None,
    classes: int = 1000,
    classifier_activation: Any = "softmax",
    dropout_rate: float | None = None,
    drop_connect_rate: float | None = None,
    include_preprocessing: bool = True,
    name: str | None = None,
) -> keras.Model:
    """Builds the functional model of a variant, with fresh weights.

    `EfficientNet` documents the options.

    Raises:
        InputError: if an option has a value that cannot be built.
    """
    if dropout_rate is None:
        dropout_rate = variant.dropout_rate
    if drop_connect_rate is None:
        drop_connect_rate = variant.drop_connect_rate
    _check_options(pooling, classes, dropout_rate, drop_connect_rate)
    image = _input(input_tensor, input_shape, variant.resolution if include_top else None)
    channels = image.shape[_channel_axis()]

    x = image  # [B, H, W, channels]
    if include_preprocessing:
        x = layers.Normalize(*pixel_statistics(variant, channels), name="normalize")(x)
    x = _conv(
        x, variant, "stem", scaling.stem_convolution(variant, channels)
    )  # [B, H/2, W/2, stem]
    blocks = scaling.expand_blocks(variant)
    for block, rate in zip(blocks, scaling.drop_rates(blocks, drop_connect_rate), strict=True):
        x = _block(x, variant, block, rate)
    head = scaling.head_convolution(variant, blocks[-1].out_filters)
    x = _conv(x, variant, "top", head)  # [B, H/32, W/32, features]

    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)  # [B, features]
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)  # [B, features]
    if include_top:
        if dropout_rate:
            x = keras.layers.Dropout(dropout_rate, name="top_dropout")(x)
        x = _classifier(int(classes), classifier_activation)(x)  # [B, classes]
    return keras.Model(_sources(image), x, name=name or _model_name(variant))


def _classifier(classes: int, activation: Any) -> keras.layers.Layer:
    """The last layer stays float32 under mixed precision: a half-precision softmax loses ranks."""
    half = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    return keras.layers.Dense(
        classes,
        activation=activation,
        kernel_initializer=_DENSE_INITIALIZER,
        dtype="float32" if half else None,
        name="predictions",
    )


def _check_options(pooling, classes, dropout_rate, drop_connect_rate) -> None:
    require(pooling in (None, "avg", "max"), "pooling", pooling, "None, 'avg' or 'max'")
    require_range("classes", classes, 1, whole=True)
    for name, rate in (("dropout_rate", dropout_rate), ("drop_connect_rate", drop_connect_rate)):
        require(0 <= rate < 1, name, rate, "at least 0 and below 1")


def _input(input_tensor, input_shape, default_size: int | None) -> Any:
    """Checks the input's shape and returns it as a Keras tensor."""
    channels_last = _channel_axis() == -1
    if not channels_last and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            raise InputError(
                "image_data_format 'channels_first' needs a GPU with TensorFlow; call "
                "keras.config.set_image_data_format('channels_last')."
            )
    if input_tensor is not None and keras.backend.is_keras_tensor(input_tensor):
        image = input_tensor
    else:
        if input_tensor is not None:
            input_shape = tuple(input_tensor.shape[1:])
        if input_shape is None:
            sides = (default_size, default_size)
            input_shape = (*sides, 3) if channels_last else (3, *sides)
        accepted = "three entries: height, width and channels"
        require(len(input_shape) == 3, "input_shape", tuple(input_shape), accepted)
        image: Any = keras.Input(input_shape)
    shape = image.shape[1:] if channels_last else (*image.shape[2:], image.shape[1])
    if len(shape) != 3 or shape[2] is None or shape[2] < 1:
        raise InputError(f"Input shape {tuple(image.shape)} must have a known number of channels.")
    if any(side is not None and side < MIN_IMAGE_SIZE for side in shape[:2]):
        raise InputError(
            f"Input shape {tuple(image.shape[1:])} is too small: height and width must be at "
            f"least {MIN_IMAGE_SIZE} pixels."
        )
    return image


def _sources(tensor: Any) -> Any:
    """The inputs that a tensor is computed from.

    `keras.utils.get_source_inputs` walks every path, and each skip doubles their number.
    """
    sources, seen, pending = [], set(), [tensor]
    while pending:
        operation, index, _ = pending.pop()._keras_history
        node = operation._inbound_nodes[index]
        if node in seen:
            continue
        seen.add(node)
        if node.is_input:
            sources += node.output_tensors
        pending += reversed(node.input_tensors)
    # A list of one input would make Keras warn about every plain array it is called with.
    return sources[0] if len(sources) == 1 else sources


def _channel_axis() -> int:
    return -1 if keras.config.image_data_format() == "channels_last" else 1


def _model_name(variant: VariantSpec) -> str:
    return "efficientnet" + re.sub(r"[^a-z0-9_.-]", "_", variant.name.lower())


def pixel_statistics(
    variant: VariantSpec, channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns the mean and deviation of each channel that pixels are normalized by.

    Only RGB has published statistics; other inputs get the mean over its channels.
    """
    mean, std = variant.pixel_mean, variant.pixel_std
    if channels == 3:
        return mean, std
    return (sum(mean) / 3,) * channels, (sum(std) / 3,) * channels


def feature_pyramid(model: keras.Model) -> keras.Model:
    """Taps the last block of each resolution, for detection and segmentation.

    Args:
        model: a network built by this package, with or without its top, or a functional or
            sequential model that calls one, at any depth.

    Returns:
        A model that shares its layers and gives five feature maps, at 1/2, 1/4, 1/8,
        1/16 and 1/32 of the height and width that the network sees (rounded up).

    Raises:
        InputError: if the model has no network of this package, or calls more than one.
    """
    network, calls = find_network(model), _calls(model)
    if network is model:
        maps = _taps(network, calls)
    else:
        around = [
            layer
            for layer in model.layers
            if isinstance(layer, keras.Model) and network in _networks(layer)
        ]
        found = [(layer, call) for layer in around for call in calls.get(layer.name, ())]
        if len(found) != 1:
            raise InputError(
                f"Model {model.name!r} calls {network.name!r} {len(found)} times in its graph, and "
                f"once is needed; pass it by itself: model.get_layer({around[0].name!r})."
            )
        ((nested, call),) = found
        maps = feature_pyramid(nested)(call.input_tensors[0])
    return keras.Model(_sources(maps[0]), maps, name=f"{model.name}_pyramid")


def find_network(model: keras.Model) -> keras.Model:
    """Returns the network of this package that a model is, or calls at any depth.

    Raises:
        InputError: if it has none, or several.
    """
    found = list({id(network): network for network in _networks(model)}.values())
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(repr(network.name) for network in found)
        raise InputError(
            f"Model {model.name!r} has {len(found)} networks inside, {names}; pass one of them, "
            f"such as model.get_layer({found[0].name!r})."
        )
    raise InputError(
        f"Model {model.name!r} has no EfficientNet layers; pass the network that a "
        "keras_efficientnet builder returned, or a model with one inside."
    )


def _networks(model: Any) -> Iterator[keras.Model]:
    if any(layer.name == "stem_conv" for layer in model.layers):
        yield model
        return
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _networks(layer)


def _taps(network: keras.Model, calls: dict[str, list[Any]]) -> list[Any]:
    """What the last block of each resolution gives."""
    taps: dict[int, Any] = {}
    stride = 1
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            stride *= layer.strides[0]
        if _BLOCK_END.fullmatch(layer.name) and layer.name in calls:
            taps[stride] = calls[layer.name][0].outputs[0]
    if not taps:
        raise InputError(f"Model {network.name!r} has no EfficientNet blocks in its graph.")
    return list(taps.values())


def _calls(model: keras.Model) -> dict[str, list[Any]]:
    """Where each layer is called in a model's graph, by the layer's name.

    Not by `layer.output`: a layer that several models share has an output in each of them,
    and the output of a nested model is the one inside it.
    """
    calls: dict[str, list[Any]] = {}
    pending = list(getattr(model, "outputs", None) or [])
    while pending:
        operation, index, _ = pending.pop()._keras_history
        call = operation._inbound_nodes[index]
        if call not in calls.setdefault(operation.name, []):
            calls[operation.name].append(call)
            pending += call.input_tensors
    return calls
