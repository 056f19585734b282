"""Ways through a training step that take TensorFlow less time and memory on a CPU.

Values and gradients are those of the plain operations to float32's rounding. What each way
gains, and what gained nothing, is in `benchmarks/README.md`.

- `swish`: its gradient is one compiled loop. Behind a batch normalization that loop
  normalizes anew, so that a step does not keep the normalized values.
- `squeeze_excite`: the product's and the mean's gradients meet in one compiled loop.
- `pointwise`: a 1x1 convolution is a matrix product, whose gradients are products as well.
- `depthwise`: oneDNN is slow at the gradient of kernels more than three columns wide, so a
  5x5 kernel's is made of two of 5x3.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Columns of the two kernels that a 5x5 kernel's gradient is made of; they share the middle one.
_TILE_COLUMNS = 3
_TILE_STARTS = (0, 2)


def applies_to(images: Any) -> bool:
    """Whether these ways are open: float32 images in a graph that runs where they were measured.

    That is Linux without an accelerator. Eager tensors take the plain way, as do layouts and
    precisions that gain nothing or were not measured.
    """
    return (
        not tf.executing_eagerly()
        and len(images.shape) == 4
        and images.dtype == tf.float32
        and on_a_cpu()
    )


@functools.cache
def on_a_cpu() -> bool:
    """Whether TensorFlow runs where these ways were measured."""
    devices = tf.config.list_physical_devices()
    return sys.platform == "linux" and {device.device_type for device in devices} == {"CPU"}


def _compiled(function: Callable, *ranks: int) -> Callable:
    """Compiles a function of float32 tensors of these ranks, once for each shape."""
    signature = [tf.TensorSpec([None] * rank, tf.float32) for rank in ranks]
    return tf.function(function, input_signature=signature, autograph=False, jit_compile=True)


def swish(x: Any) -> Any:
    """`x * sigmoid(x)` of images `[batch, height, width, channels]`."""
    norm = _batch_norm_of(x)

    @tf.custom_gradient
    def activate(x):
        def gradient(upstream):
            slope = norm(upstream) if norm else _swish_gradient(upstream, x)
            return tf.ensure_shape(slope, x.shape)

        return tf.nn.silu(x), gradient

    return activate(x)


def _slope(upstream, x):
    gate = tf.sigmoid(x)
    return upstream * (gate * (1.0 + x * (1.0 - gate)))


def _normalized_slope(upstream, inputs, mean, variance, scale, offset, epsilon):
    inverse = scale * tf.math.rsqrt(variance + epsilon)
    return _slope(upstream, (inputs - mean) * inverse + offset)


_swish_gradient = _compiled(_slope, 4, 4)
_normalized_swish_gradient = _compiled(_normalized_slope, 4, 4, 1, 1, 1, 1, 0)


def _batch_norm_of(x: Any) -> Callable | None:
    """Returns the gradient of `swish(x)` from what `x` was made of, if that is kept anyway.

    The kernel of `layers.BatchNormalization` keeps its input for its own gradient.
    """
    operation = x.op
    if operation.type != "FusedBatchNormV3" or not operation.get_attr("is_training"):
        return None
    inputs, scale, offset = operation.inputs[:3]
    _, mean, unbiased = operation.outputs[:3]
    epsilon = operation.get_attr("epsilon")

    @tf.custom_gradient
    def gradient(upstream, inputs, scale, offset):
        arguments = (upstream, inputs, scale, offset)

        def second(change):  # for those who differentiate twice: batch statistics move as well
            with tf.GradientTape() as tape:
                tape.watch(arguments)
                means, variances = tf.nn.moments(inputs, (0, 1, 2))
                plain = _normalized_slope(
                    upstream, inputs, means, variances, scale, offset, epsilon
                )
            return tape.gradient([plain], arguments, [change])

        count = tf.cast(tf.size(inputs) // tf.size(mean), tf.float32)
        variance = unbiased * (tf.maximum(count - 1.0, 1.0) / count)
        slope = _normalized_swish_gradient(
            upstream, inputs, mean, variance, scale, offset, tf.constant(epsilon)
        )
        return slope, second

    return lambda upstream: gradient(upstream, inputs, scale, offset)


def squeeze_excite(x: Any, weights: list[Any], activation: Callable) -> Any:
    """Weighs each channel of images `[batch, height, width, channels]`.

    Args:
        x: images.
        weights: kernel `[1, 1, channels, filters]` and bias of the bottleneck, and of the way
            back.
        activation: of the bottleneck.
    """

    def gate_of(mean, reduce, reduce_bias, expand, expand_bias):
        bottleneck = activation(tf.matmul(mean, reduce[0, 0]) + reduce_bias)
        return tf.sigmoid(tf.matmul(bottleneck, expand[0, 0]) + expand_bias)

    @tf.custom_gradient
    def weigh(x, *weights):
        mean = tf.reduce_mean(x, (1, 2))
        gate = gate_of(mean, *weights)

        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch((mean, *weights))
                gate = gate_of(mean, *weights)
            to_gate = tf.reduce_sum(upstream * x, (1, 2))
            found: Any = tape.gradient([gate], (mean, *weights), [to_gate])
            to_mean, *to_weights = found
            share = to_mean / tf.cast(tf.shape(x)[1] * tf.shape(x)[2], tf.float32)
            to_x = _excite_gradient(upstream, gate, share)
            return tf.ensure_shape(to_x, x.shape), *to_weights

        return x * gate[:, None, None, :], gradient

    return weigh(x, *weights)


_excite_gradient = _compiled(
    lambda upstream, gate, share: upstream * gate[:, None, None, :] + share[:, None, None, :],
    *(4, 2, 2),
)


def pointwise(x: Any, kernel: Any) -> Any:
    """Convolves images `[batch, height, width, channels]` with `[1, 1, channels, filters]`."""
    channels, filters = kernel.shape[2:]
    pixels = tf.matmul(tf.reshape(x, (-1, channels)), kernel[0, 0])
    outputs: Any = tf.reshape(pixels, (*tf.unstack(tf.shape(x))[:3], filters))
    return tf.ensure_shape(outputs, (*x.shape[:3], filters))


def depthwise(x: Any, kernel: Any, stride: int) -> Any:
    """Convolves each channel with its 5x5 kernel, with "same" padding.

    Args:
        x: images `[batch, height, width, channels]` of known height and width.
        kernel: `[5, 5, channels, 1]`.
        stride: of both directions.
    """
    strides = (1, stride, stride, 1)

    @tf.custom_gradient
    def convolve(x, kernel):
        def gradient(upstream):
            to_x = tf.nn.depthwise_conv2d_backprop_input(
                tf.shape(x), kernel, upstream, strides, "SAME"
            )
            return tf.ensure_shape(to_x, x.shape), _kernel_gradient(x, upstream, stride)

        return tf.nn.depthwise_conv2d(x, kernel, strides, "SAME"), gradient

    return convolve(x, kernel)


def _kernel_gradient(x, upstream, stride: int):
    size, (height, width), channels = 5, x.shape[1:3], x.shape[3]
    padding = []
    for length in (height, width):
        missing = max((-(-length // stride) - 1) * stride + size - length, 0)
        padding.append((missing // 2, missing - missing // 2))
    paddings = tf.constant([(0, 0), *padding, (0, 0)])
    # Or it would be padded as soon as it is there, and the copies kept until now.
    with tf.control_dependencies([upstream]):
        padded = tf.pad(x, paddings)
    reach = (-(-width // stride) - 1) * stride + _TILE_COLUMNS
    left, right = (
        tf.nn.depthwise_conv2d_backprop_filter(
            padded[:, :, start : start + reach],
            (size, _TILE_COLUMNS, channels, 1),
            upstream,
            (1, stride, stride, 1),
            "VALID",
        )
        for start in _TILE_STARTS
    )
    return tf.concat([left, right[:, 1:]], axis=1)
