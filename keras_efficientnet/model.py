"""From a list of blocks to a Keras graph: stem, blocks, head.

`build` knows architecture only. Where weights come from is `weights`' business, and
nothing about it changes the graph.
"""

import contextlib
import numbers
import re
from collections.abc import Iterator
from typing import Any

import keras

from keras_efficientnet import layers, scaling
from keras_efficientnet.errors import InputError
from keras_efficientnet.scaling import BlockSpec
from keras_efficientnet.spec import VariantSpec

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


@contextlib.contextmanager
def _variables_named_afterwards() -> Iterator[None]:
    """Creates TensorFlow's variables as "kernel", and names them "block1a_dwconv/kernel" then.

    TensorFlow prepares an operation for every name that it has not met, which takes longer
    than all else about a variable.
    """
    if keras.backend.backend() != "tensorflow":
        yield
        return
    import tensorflow as tf

    def create(next_creator, **options):
        if tf.distribute.has_strategy():  # whose variables are many under one name
            return next_creator(**options)
        name = options["name"]
        # The slash makes a name absolute; without it the scope would come before it.
        variable = next_creator(**{**options, "name": f"{name}/"})
        if not hasattr(variable, "_handle_name"):  # in another TensorFlow
            return next_creator(**options)
        scope = tf.get_current_name_scope()
        variable._handle_name = f"{scope}/{name}:0" if scope else f"{name}:0"
        return variable

    with tf.variable_creator_scope(create):
        yield


@_variables_named_afterwards()
def build(
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

    `EfficientNet` documents the options. Shapes in the comments are channels-last.

    Raises:
        InputError: if an option has a value that cannot be built.
    """
    dropout_rate = variant.dropout_rate if dropout_rate is None else dropout_rate
    drop_connect_rate = (
        variant.drop_connect_rate if drop_connect_rate is None else drop_connect_rate
    )
    _check_options(pooling, classes, dropout_rate, drop_connect_rate)
    image = _input(input_tensor, input_shape, variant.resolution if include_top else None)

    x = image  # [B, H, W, C]
    if include_preprocessing:
        x = _normalize(x, variant)
    x = _conv(x, variant, "stem_", scaling.stem_filters(variant), kernel_size=3, stride=2)
    blocks = scaling.expand_blocks(variant)
    for block, rate in zip(blocks, scaling.drop_rates(blocks, drop_connect_rate), strict=True):
        x = _BLOCKS[block.kind](x, variant, block, rate)
    x = _conv(x, variant, "top_", scaling.head_filters(variant))  # [B, H/32, W/32, features]

    if include_top:
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
        if dropout_rate:
            x = keras.layers.Dropout(dropout_rate, name="top_dropout")(x)
        x = _classifier(int(classes), classifier_activation)(x)  # [B, classes]
    elif pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name="avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name="max_pool")(x)

    sources = keras.utils.get_source_inputs(image)
    # A list of one input would make Keras warn about every plain array it is called with.
    inputs = sources[0] if len(sources) == 1 else sources
    return keras.Model(inputs, x, name=name or _model_name(variant))


def feature_pyramid(model: keras.Model) -> keras.Model:
    """Taps the last block of each resolution, for detection and segmentation.

    Args:
        model: a network built by this package, with or without its top.

    Returns:
        A model that shares its layers and gives five feature maps, at 1/2, 1/4, 1/8,
        1/16 and 1/32 of the input's height and width (rounded up).

    Raises:
        InputError: if the model has no EfficientNet blocks.
    """
    taps: dict[int, Any] = {}
    stride = 1
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.DepthwiseConv2D):
            stride *= layer.strides[0]
        if re.fullmatch(r"block\d+[a-z]+_(project_bn|project_activation|add)", layer.name):
            taps[stride] = layer.output
    if not taps:
        raise InputError(
            f"Model {model.name!r} has no EfficientNet blocks; pass a model that a "
            "keras_efficientnet builder returned."
        )
    return keras.Model(model.input, list(taps.values()), name=f"{model.name}_pyramid")


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


def _mbconv(x, variant: VariantSpec, block: BlockSpec, drop_rate: float):
    """Expand 1x1, depthwise, squeeze-and-excite, project 1x1, add."""
    inputs, prefix = x, f"{block.name}_"
    if block.expanded_filters != block.in_filters:
        x = _conv(x, variant, f"{prefix}expand_", block.expanded_filters)
    x = _conv(x, variant, prefix, None, block.kernel_size, block.stride)
    x = _squeeze_excite(x, variant, block)
    x = _conv(x, variant, f"{prefix}project_", block.out_filters, activate=False)
    return _residual(inputs, x, block, drop_rate)


def _fused_mbconv(x, variant: VariantSpec, block: BlockSpec, drop_rate: float):
    """Full convolution, squeeze-and-excitation, project 1x1, add.

    A block that does not expand is one full convolution, named and activated as both
    halves of it (V2 code).
    """
    inputs, prefix = x, f"{block.name}_"
    expands = block.expanded_filters != block.in_filters
    if expands:
        x = _conv(
            x, variant, f"{prefix}expand_", block.expanded_filters, block.kernel_size, block.stride
        )
    x = _squeeze_excite(x, variant, block)
    if expands:
        x = _conv(x, variant, f"{prefix}project_", block.out_filters, activate=False)
    else:
        x = _conv(
            x, variant, f"{prefix}project_", block.out_filters, block.kernel_size, block.stride
        )
    return _residual(inputs, x, block, drop_rate)


_BLOCKS = {"mbconv": _mbconv, "fused_mbconv": _fused_mbconv}


def _conv(
    x,
    variant: VariantSpec,
    prefix: str,
    filters: int | None,
    kernel_size: int = 1,
    stride: int = 1,
    activate: bool = True,
):
    """Convolution without bias, batch normalization, activation; depthwise if `filters` is None."""
    options: dict[str, Any] = {
        "kernel_size": kernel_size,
        "strides": stride,
        "padding": "same",
        "use_bias": False,
    }
    if variant.padding == "symmetric" and stride > 1:
        # At stride 1 an odd kernel's "same" padding is symmetric already.
        x = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{prefix}pad")(x)
        options["padding"] = "valid"
    if filters is None:
        x = layers.DepthwiseConv2D(
            **options, depthwise_initializer=_CONV_INITIALIZER, name=f"{prefix}dwconv"
        )(x)
    else:
        x = layers.Conv2D(
            filters, **options, kernel_initializer=_CONV_INITIALIZER, name=f"{prefix}conv"
        )(x)
    x = layers.BatchNormalization(
        axis=_channel_axis(),
        momentum=variant.batch_norm_momentum,
        epsilon=variant.batch_norm_epsilon,
        name=f"{prefix}bn",
    )(x)
    return _activation(variant, f"{prefix}activation")(x) if activate else x


def _squeeze_excite(x, variant: VariantSpec, block: BlockSpec):
    if not block.se_filters:
        return x
    return layers.SqueezeExcite(
        block.se_filters,
        activation=variant.activation,
        kernel_initializer=_CONV_INITIALIZER,
        name=f"{block.name}_se",
    )(x)


def _residual(inputs, x, block: BlockSpec, drop_rate: float):
    if not block.skip:
        return x
    if drop_rate:
        x = layers.StochasticDepth(drop_rate, name=f"{block.name}_drop")(x)
    return keras.layers.Add(name=f"{block.name}_add")([x, inputs])


def _activation(variant: VariantSpec, name: str) -> keras.layers.Layer:
    if variant.activation == "swish":
        return layers.Swish(name=name)
    return keras.layers.Activation(variant.activation, name=name)


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


def _normalize(x, variant: VariantSpec):
    mean, std = pixel_statistics(variant, x.shape[_channel_axis()])
    return layers.Normalize(mean, std, name="normalize")(x)


def _channel_axis() -> int:
    return -1 if keras.config.image_data_format() == "channels_last" else 1


def _model_name(variant: VariantSpec) -> str:
    return "efficientnet" + re.sub(r"[^a-z0-9_.-]", "_", variant.name.lower())


def _input(input_tensor, input_shape, default_size: int | None) -> Any:
    """Checks the input's shape and returns it as a Keras tensor."""
    channels_last = keras.config.image_data_format() == "channels_last"
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
            spatial = (default_size, default_size)
            input_shape = (*spatial, 3) if channels_last else (3, *spatial)
        if len(input_shape) != 3:
            raise InputError(
                f"input_shape={tuple(input_shape)} must have three entries: height, width and "
                "channels."
            )
        image: Any = keras.Input(input_shape)
    shape = image.shape[1:] if channels_last else (*image.shape[2:], image.shape[1])
    if len(shape) != 3 or shape[2] is None or shape[2] < 1:
        raise InputError(f"Input shape {tuple(image.shape)} must have a known number of channels.")
    for size in shape[:2]:
        if size is not None and size < MIN_IMAGE_SIZE:
            raise InputError(
                f"Input shape {tuple(image.shape[1:])} is too small: height and width must be at "
                f"least {MIN_IMAGE_SIZE} pixels."
            )
    return image


def _check_options(pooling, classes, dropout_rate, drop_connect_rate) -> None:
    if pooling not in (None, "avg", "max"):
        raise InputError(f"pooling={pooling!r} must be None, 'avg' or 'max'.")
    if not isinstance(classes, numbers.Integral) or classes < 1:
        raise InputError(f"classes={classes!r} must be a whole number of at least 1.")
    for name, rate in (("dropout_rate", dropout_rate), ("drop_connect_rate", drop_connect_rate)):
        if not 0 <= rate < 1:
            raise InputError(f"{name}={rate!r} must be at least 0 and below 1.")
