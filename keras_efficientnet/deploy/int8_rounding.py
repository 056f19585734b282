"""Rounding of weights to 8 bits by what a layer gives, rather than weight by weight.

To the nearest step, every weight is off by up to half a step, and the errors of a layer's output
add up: where its inputs have a mean, as after a ReLU, so does the error. Here the weights of a
layer are rounded one input after the other, and those still to come, the bias last, make up for
the error so far as well as they can on images (Frantar & Alistarh, https://arxiv.org/abs/2208.11580
and https://arxiv.org/abs/2210.17323). What a weight is worth follows from the products of the
layer's inputs alone, so one pass over the images is all that is needed, and no labels.
"""

from collections.abc import Mapping
from itertools import islice

import numpy as np

from keras_efficientnet.deploy.int8_quantizer import computed
from keras_efficientnet.deploy.tflite_graph import Convolution, Graph

# Places of each image at which a layer's inputs are looked at: a kernel of n weights has as many
# unknowns, and a depthwise one few.
PLACES, DEPTHWISE_PLACES = 128, 32
# Share of the mean square of the inputs that is added to each, so that inputs which hardly ever
# occur on these images do not make others large.
DAMPING = 1e-3
STEPS = 127
# Inputs that are handled together before their errors are passed on to all others.
_BLOCK = 64
# Images whose products are taken at once.
_IMAGES = 10
NO_SCALES: Mapping[str, np.ndarray] = {}


class Rounding:
    """Rounds the weights of one network.

    Args:
        content: of a float32 .tflite file that takes one image.
        images: as the network takes them, `[count, height, width, channels]`; training images.
    """

    def __init__(self, content: bytes, images: np.ndarray):
        layers = [layer for layer in Graph(content).convolutions() if layer.plain]
        self._products: dict[str, np.ndarray] = {}
        # A search asks for the same layers again and again.
        self._rounded: dict[tuple, tuple[np.ndarray, np.ndarray | None]] = {}
        rng = np.random.default_rng(0)
        sources = sorted({layer.source for layer in layers})
        tensors_of_images = computed(content, images, sources)
        while some := list(islice(tensors_of_images, _IMAGES)):
            for layer in layers:
                inputs = [_inputs(layer, tensors[layer.source], rng) for tensors in some]
                joined = np.concatenate(inputs, 1)
                products = joined.swapaxes(1, 2) @ joined / (len(images) * inputs[0].shape[1])
                if layer.output in self._products:
                    products += self._products[layer.output]
                self._products[layer.output] = products

    def apply(
        self,
        graph: Graph,
        limits: Mapping[str, np.ndarray],
        scales: Mapping[str, np.ndarray] = NO_SCALES,
        left_alone: frozenset[str] = frozenset(),
    ) -> None:
        """Rounds a network's kernels and corrects its biases.

        Args:
            graph: the network, or the same with equalized channels.
            limits: largest absolute value of each output channel of a kernel, of the kernel's
                shape but for ones, by the kernel's name.
            scales: factors of the channels of equalized tensors, by name.
            left_alone: names of the outputs of layers that stay in float32.
        """
        for layer in graph.convolutions():
            if layer.output not in self._products or layer.output in left_alone:
                continue
            scale = scales.get(layer.source)
            limit = limits[layer.kernel_name]
            arrays = (layer.kernel, layer.bias, limit, scale)
            key = (layer.output, *(None if a is None else hash(a.tobytes()) for a in arrays))
            if key not in self._rounded:
                products = self._products[layer.output]
                self._rounded[key] = _rounded(layer, products, limit, scale)
            graph.set_weights(layer.output, *self._rounded[key])


def _inputs(layer: Convolution, values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns what a layer multiplies its weights by at some places, and a one for the bias.

    Returns:
        `[1, places, inputs + 1]`, of depthwise layers `[channels, places, inputs + 1]`.
    """
    if values.ndim == 2:
        patches = values[:, None]
    else:
        _, height, width, channels = values.shape
        (rows, columns), step = layer.kernel.shape[1:3], layer.stride
        padded = values[0]
        if layer.same:
            around = [
                (max((-(-size // step) - 1) * step + kernel - size, 0))
                for size, kernel in ((height, rows), (width, columns))
            ]
            borders = [(size // 2, size - size // 2) for size in around]
            padded = np.pad(padded, (*borders, (0, 0)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (rows, columns), (0, 1))
        windows = windows[::step, ::step]  # [height, width, channels, rows, columns]
        count = windows.shape[0] * windows.shape[1]
        places = DEPTHWISE_PLACES if layer.depthwise else PLACES
        chosen = rng.permutation(count)[:places]
        patches = windows[chosen // windows.shape[1], chosen % windows.shape[1]]
        patches = patches.reshape(len(patches), channels, -1).swapaxes(1, 2)
    # Now [places, taps, channels].
    joined = patches.reshape(1, len(patches), -1)
    inputs = patches.transpose(2, 0, 1) if layer.depthwise else joined
    return np.concatenate([inputs, np.ones_like(inputs[..., :1])], -1)


def _rounded(
    layer: Convolution, products: np.ndarray, limit: np.ndarray, scale: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns a layer's kernel in whole steps and its bias."""
    products = products.astype(np.float64)
    if scale is not None:
        if layer.depthwise:
            factors = np.repeat(scale[:, None], products.shape[-1] - 1, 1)
        else:
            factors = np.tile(scale, (products.shape[-1] - 1) // len(scale))[None]
        factors = np.append(factors, np.ones((len(factors), 1)), 1)
        products = products * factors[:, :, None] * factors[:, None, :]
    steps = limit.ravel() / STEPS
    if layer.depthwise:
        weights, steps = layer.kernel.reshape(-1, len(steps)).T[:, None], steps[:, None]
    else:
        weights, steps = layer.kernel.reshape(1, len(steps), -1), steps[None]
    weights = weights.astype(np.float64)
    if layer.bias is None:
        products = products[:, :-1, :-1]
        rounded = round_weights(weights, products, steps)
        bias = None
    else:
        bias = layer.bias.reshape(*weights.shape[:2], 1)
        rounded = round_weights(np.append(weights, bias, -1), products, steps, with_bias=True)
        rounded, bias = rounded[..., :-1], rounded[..., -1].ravel().astype(np.float32)
    rounded = rounded[:, 0].T if layer.depthwise else rounded[0]
    return rounded.reshape(layer.kernel.shape).astype(np.float32), bias


def round_weights(
    weights: np.ndarray, products: np.ndarray, steps: np.ndarray, with_bias: bool = False
) -> np.ndarray:
    """Rounds weights so that sums of products with their inputs change little.

    Args:
        weights: `[groups, outputs, inputs]`.
        products: mean products of any two inputs, `[groups, inputs, inputs]`.
        steps: of the weights of each output, `[groups, outputs]`.
        with_bias: whether the last input is 1 and its weight, the bias, stays as fine as it is.

    Returns:
        Weights of the same shape, in whole steps from -127 to 127.
    """
    count = weights.shape[-1]
    free = count - 1 if with_bias else count
    size = np.diagonal(products, axis1=1, axis2=2).copy()
    # Large inputs first: the others make up for them. The bias makes up for all.
    order = np.argsort(-size[:, :free], axis=1, kind="stable")
    if with_bias:
        order = np.append(order, np.full((len(order), 1), free), 1)
    damped = products.copy()
    diagonal = np.arange(free)
    damped[:, diagonal, diagonal] += DAMPING * size[:, :free].mean(1, keepdims=True) + 1e-12
    damped = np.take_along_axis(damped, order[:, :, None], 1)
    damped = np.take_along_axis(damped, order[:, None, :], 2)
    # The row of each input says how those behind it make up for its error.
    passing = np.linalg.cholesky(np.linalg.inv(damped)).swapaxes(1, 2)
    rest = np.take_along_axis(weights, order[:, None, :], 2)
    result = np.empty_like(rest)
    for start in range(0, count, _BLOCK):
        end = min(start + _BLOCK, count)
        errors = np.zeros((*rest.shape[:2], end - start))
        for index in range(start, end):
            column = rest[..., index]
            kept = column
            if index < free:
                kept = np.clip(np.round(column / steps), -STEPS, STEPS) * steps
            result[..., index] = kept
            error = (column - kept) / passing[:, None, index, index]
            rest[..., index:end] -= error[..., None] * passing[:, None, index, index:end]
            errors[..., index - start] = error
        rest[..., end:] -= errors @ passing[:, start:end, end:]
    return np.take_along_axis(result, np.argsort(order, axis=1)[:, None, :], 2)
