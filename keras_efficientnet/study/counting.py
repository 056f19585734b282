"""Counts the multiply-adds of any Keras network."""

import math

import keras

from keras_efficientnet.errors import InputError
from keras_efficientnet.layers import SqueezeExcite


def multiply_adds(model: keras.Model) -> int:
    """Counts the multiply-adds of a network for one image, by the rules of `ke.cost`.

    Convolutions, dense layers and this package's squeeze-and-excitation count; normalization,
    activations and pooling do not.

    Args:
        model: a functional network, such as one of keras.applications, with a fixed input
            size.

    Raises:
        InputError: if the input size is not fixed, or a layer of another kind has a kernel.
    """
    total = 0
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            total += multiply_adds(layer)
        # One multiplication for each weight of the kernel at every place of the output.
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            total += layer.kernel.shape[0] * layer.kernel.shape[1] * _size(layer)
        elif isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            total += math.prod(layer.kernel.shape[:-1]) * _size(layer)
        elif isinstance(layer, keras.layers.SeparableConv2D):
            places = _size(layer) // layer.filters
            kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
            total += places * sum(math.prod(kernel.shape) for kernel in kernels)
        elif isinstance(layer, SqueezeExcite):  # two 1x1 convolutions of one pixel
            total += math.prod(layer.reduce.kernel.shape) + math.prod(layer.expand.kernel.shape)
        elif any(len(weight.shape) > 1 for weight in layer.weights):
            raise InputError(
                f"Layer {layer.name!r} is a {type(layer).__name__}, whose multiply-adds are not "
                "counted here; leave it out."
            )
    return total


def _size(layer) -> int:
    """Returns the number of values of a layer's output for one image."""
    shape = layer.output.shape[1:]
    if None in shape:
        raise InputError(
            f"Layer {layer.name!r} has output {shape}; build the network with a fixed input size "
            "to count its multiply-adds."
        )
    return math.prod(shape)
