"""CPU-optimized gradients for training with TensorFlow, in less time and memory.

Values and gradients are those of the plain operations to float32's rounding. What each of them
gains, and what gained nothing, is in `benchmarks/README.md`.

- `swish`: its gradient is one loop, compiled by XLA. Behind a batch normalization that loop
  recomputes the normalized values, so that a step does not keep them.
- Rematerialization: the outputs of swish behind a batch normalization, and of
  squeeze-and-excitation, are recomputed for the gradients of the layers that follow.
- `squeeze_excite`: the gradients of the product and of the mean are added in one compiled loop.
- `pointwise`: a 1x1 convolution is a matrix product, and so are its gradients.
- `depthwise`: oneDNN is slow at the gradient of kernels more than three columns wide, so a
  5x5 kernel's is put together from two of 5x3.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import tensorflow as tf

# Columns of the two kernels that a 5x5 kernel's gradient is made of; they share the middle one.
_TILE_COLUMNS = 3
_TILE_STARTS = (0, 2)

# Of a batch normalization's images, mean, variance, scale, offset and epsilon.
_NORM_RANKS = (4, 1, 1, 1, 1, 0)

# The attribute of a tensor with the function that recomputes it.
_RECOMPUTE = "_recompute"


def applies_to(images: Any) -> bool:
    """Whether the fast path applies: to float32 images in a graph on Linux without accelerator.

    Eager tensors and other precisions take the plain operations: they gain nothing, or were
    not measured.
    """
    return (
        not tf.executing_eagerly()
        and len(images.shape) == 4
        and images.dtype == tf.float32
        and on_cpu()
    )


@functools.cache
def on_cpu() -> bool:
    """Whether TensorFlow runs on what the fast path was measured on: a CPU under Linux."""
    devices = tf.config.list_physical_devices()
    return sys.platform == "linux" and {device.device_type for device in devices} == {"CPU"}


def biased_variance(unbiased: Any, images: Any) -> Any:
    """Returns the variance that Keras keeps, from the unbiased one of TensorFlow's fused kernel."""
    count = tf.cast(tf.size(images) // images.shape[-1], tf.float32)
    return unbiased * (tf.maximum(count - 1.0, 1.0) / count)


def _compiled(*ranks: int) -> Callable:
    """Compiles a function of float32 tensors of these ranks, once for each shape."""
    signature = [tf.TensorSpec([None] * rank, tf.float32) for rank in ranks]
    return tf.function(input_signature=signature, autograph=False, jit_compile=True)


def _recomputed(x: Any, after: Any) -> Any:
    """Returns `x`, recomputed where possible, so that the step need not keep it until now.

    It is recomputed once for all gradients that need it, and not before the tensor `after`
    exists: TensorFlow would do it as early as possible, and keep the result.
    """
    recompute = getattr(x, _RECOMPUTE, None)
    return recompute(after) if recompute else x


def _rematerializable(x: Any, compute: Callable[[Any], Any]) -> Any:
    """Lets the gradients of what follows recompute `x` by `compute(after)`."""
    made = {}

    def recompute(after):
        if after.graph not in made:
            with tf.control_dependencies([after]):
                made[after.graph] = tf.ensure_shape(compute(after), shape)
        return made[after.graph]

    shape = x.shape
    setattr(x, _RECOMPUTE, recompute)
    return x


def swish(x: Any) -> Any:
    """`x * sigmoid(x)` of images `[batch, height, width, channels]`."""
    from_norm = _from_batch_norm(x)

    @tf.custom_gradient
    def activate(x):
        def gradient(upstream):
            if from_norm:
                slope = from_norm(_normalized_swish_gradient, upstream)
            else:
                slope = _swish_gradient(x, upstream)
            return tf.ensure_shape(slope, x.shape)

        return tf.nn.silu(x), gradient

    outputs = activate(x)
    if not from_norm:
        return outputs
    return _rematerializable(outputs, lambda after: from_norm(_normalized_swish))


def _slope(x, upstream):
    gate = tf.sigmoid(x)
    return upstream * (gate * (1.0 + x * (1.0 - gate)))


def _normalized(inputs, mean, variance, scale, offset, epsilon):
    return (inputs - mean) * (scale * tf.math.rsqrt(variance + epsilon)) + offset


_swish_gradient = _compiled(4, 4)(_slope)


@_compiled(*_NORM_RANKS, 4)
def _normalized_swish_gradient(*arguments):
    *norm, upstream = arguments
    return _slope(_normalized(*norm), upstream)


@_compiled(*_NORM_RANKS)
def _normalized_swish(*norm):
    x = _normalized(*norm)
    return x * tf.sigmoid(x)


def _from_batch_norm(x: Any) -> Callable | None:
    """Returns what computes functions of a batch normalization's output `x` from its inputs.

    The kernel of `layers.BatchNormalization` keeps these for its own gradient anyway. None if
    `x` is not from such a kernel in training.
    """
    operation = x.op
    if operation.type != "FusedBatchNormV3" or not operation.get_attr("is_training"):
        return None
    if operation.get_attr("data_format") != b"NHWC":
        return None
    inputs, scale, offset = operation.inputs[:3]
    _, mean, unbiased = operation.outputs[:3]
    epsilon = operation.get_attr("epsilon")

    def compute(function, *others):
        @tf.custom_gradient
        def run(inputs, scale, offset, *others):
            def gradient(upstream):  # of the second order, where the statistics change as well
                arguments = inputs, scale, offset, *others
                with tf.GradientTape() as tape:
                    tape.watch(arguments)
                    means, variances = tf.nn.moments(inputs, (0, 1, 2))
                    norm = inputs, means, variances, scale, offset, epsilon
                    result = function.python_function(*norm, *others)
                return tape.gradient([result], arguments, [upstream])

            variance = biased_variance(unbiased, inputs)
            norm = inputs, mean, variance, scale, offset, tf.constant(epsilon)
            return function(*norm, *others), gradient

        return run(inputs, scale, offset, *others)

    return compute


def squeeze_excite(x: Any, weights: list[Any], activation: Callable) -> Any:
    """Weighs each channel of images `[batch, height, width, channels]`.

    Args:
        x: images.
        weights: kernel `[1, 1, channels, filters]` and bias of the bottleneck, then kernel
            `[1, 1, filters, channels]` and bias of the gate.
        activation: of the bottleneck.
    """

    def gate_of(mean, reduce, reduce_bias, expand, expand_bias):
        bottleneck = activation(tf.matmul(mean, reduce[0, 0]) + reduce_bias)
        return tf.sigmoid(tf.matmul(bottleneck, expand[0, 0]) + expand_bias)

    gates = []

    @tf.custom_gradient
    def weigh(images, *weights):
        mean = tf.reduce_mean(images, (1, 2))
        gate = gate_of(mean, *weights)
        gates.append(gate)

        def gradient(upstream):
            with tf.GradientTape() as tape:
                tape.watch((mean, *weights))
                gate = gate_of(mean, *weights)
            to_gate = tf.reduce_sum(upstream * _recomputed(x, upstream), (1, 2))
            gradients: Any = tape.gradient([gate], (mean, *weights), [to_gate])
            to_mean, *to_weights = gradients
            share = to_mean / tf.cast(tf.shape(upstream)[1] * tf.shape(upstream)[2], tf.float32)
            to_images = _excite_gradient(upstream, gate, share)
            return tf.ensure_shape(to_images, images.shape), *to_weights

        return images * gate[:, None, None, :], gradient

    outputs = weigh(x, *weights)
    return _rematerializable(
        outputs, lambda after: _recomputed(x, after) * gates[0][:, None, None, :]
    )


@_compiled(4, 2, 2)
def _excite_gradient(upstream, gate, share):
    return upstream * gate[:, None, None, :] + share[:, None, None, :]


def pointwise(x: Any, kernel: Any) -> Any:
    """Convolves images `[batch, height, width, channels]` with `[1, 1, channels, filters]`."""
    channels, filters = kernel.shape[2:]

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradient(upstream):
            slopes = tf.reshape(upstream, (-1, filters))
            to_pixels = tf.matmul(slopes, kernel[0, 0], transpose_b=True)
            to_images = tf.reshape(to_pixels, (*tf.unstack(tf.shape(upstream))[:3], channels))
            pixels = tf.reshape(_recomputed(x, upstream), (-1, channels))
            to_kernel = tf.matmul(pixels, slopes, transpose_a=True)[None, None]
            return tf.ensure_shape(to_images, images.shape), to_kernel

        pixels = tf.matmul(tf.reshape(images, (-1, channels)), kernel[0, 0])
        outputs: Any = tf.reshape(pixels, (*tf.unstack(tf.shape(images))[:3], filters))
        return tf.ensure_shape(outputs, (*images.shape[:3], filters)), gradient

    return convolve(x, kernel)


def depthwise(x: Any, kernel: Any, stride: int) -> Any:
    """Convolves each channel with its 5x5 kernel, with "same" padding.

    Args:
        x: images `[batch, height, width, channels]` of known height and width.
        kernel: `[5, 5, channels, 1]`.
        stride: of both directions.
    """
    strides = (1, stride, stride, 1)

    @tf.custom_gradient
    def convolve(images, kernel):
        def gradient(upstream):
            to_images = tf.nn.depthwise_conv2d_backprop_input(
                tf.shape(images), kernel, upstream, strides, "SAME"
            )
            to_kernel = _kernel_gradient(_recomputed(x, upstream), upstream, stride)
            return tf.ensure_shape(to_images, images.shape), to_kernel

        return tf.nn.depthwise_conv2d(images, kernel, strides, "SAME"), gradient

    return convolve(x, kernel)


def _kernel_gradient(x, upstream, stride: int):
    size, (height, width), channels = 5, x.shape[1:3], x.shape[3]
    padding = []
    for length in (height, width):
        missing = max((-(-length // stride) - 1) * stride + size - length, 0)
        padding.append((missing // 2, missing - missing // 2))
    paddings = tf.constant([(0, 0), *padding, (0, 0)])
    # Without it TensorFlow would pad as soon as the images exist, and keep the copies until now.
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
