"""Fine-tuning that makes a network robust against 8 bits.

The network is trained while its weights and activations are rounded as an 8-bit file rounds
them, with gradients that pass through the rounding as if it were not there (Jacob et al.,
https://arxiv.org/abs/1712.05877). It learns to give what it gave before: the float network is
its own teacher, so labels are not needed (Hinton et al., https://arxiv.org/abs/1503.02531).
Statistics of batch normalization stay as they are.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import keras
import numpy as np
from keras import ops
from tqdm import tqdm

from keras_efficientnet import layers
from keras_efficientnet.deploy.int8_search import SWISH_FLOOR, TAIL

PEAK_LEARNING_RATE = 3e-5
# Prepared images that ranges are taken from.
RANGE_IMAGES = 64
VALUES_AN_IMAGE = 4096
# What goes into these is not rounded: a file folds batch normalization into the convolution
# ahead, and has no dropout (which StochasticDepth is).
_PASSING = (
    keras.layers.InputLayer,
    keras.layers.Dropout,
    keras.layers.BatchNormalization,
)
_LEVELS = 255


def fine_tune(
    model: keras.Model, images: np.ndarray, epochs: int, batch_size: int = 16
) -> keras.Model:
    """Trains a copy of a network under the rounding of an 8-bit file.

    Args:
        model: a functional classifier that gives probabilities or logits.
        images: training images as the network takes them, float32 `[count, height, width,
            channels]`; some hundred will do.
        epochs: passes over them.
        batch_size: images that a change of the weights looks at.

    Returns:
        The copy, to be exported and quantized as any network.
    """
    steps = epochs * max(1, len(images) // batch_size)
    trainer = _Trainer(model, _rounded(model, images))
    schedule = keras.optimizers.schedules.CosineDecay(PEAK_LEARNING_RATE, steps)
    # XLA on CPUs takes minutes to compile a network of this depth.
    trainer.compile(optimizer=keras.optimizers.Adam(schedule), jit_compile=False)
    batches = islice(_batches(images, batch_size), steps)
    with tqdm(batches, "Fine-tuning in 8 bits", steps, leave=False, disable=None) as bar:
        for batch in bar:
            loss = np.ravel(trainer.train_on_batch(batch))[0]
            bar.set_postfix(loss=f"{loss:.4f}")
    tuned = keras.models.clone_model(model)
    _copy_weights(trainer.rounded, tuned)
    return tuned


def _batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yields shuffled images without end, each moved by up to a sixteenth of its side."""
    rng = np.random.default_rng(0)
    height, width = images.shape[1:3]
    largest = max(height, width) // 16
    while True:
        order = rng.permutation(len(images))
        for start in range(0, max(1, len(order) - size + 1), size):
            batch = images[order[start : start + size]]
            borders = ((0, 0), (largest, largest), (largest, largest), (0, 0))
            padded = np.pad(batch, borders, mode="edge")
            moves = rng.integers(0, 2 * largest + 1, (len(batch), 2))
            yield np.stack(
                [
                    image[top : top + height, left : left + width]
                    for image, (top, left) in zip(padded, moves, strict=True)
                ]
            )


class _FakeQuantize(keras.layers.Layer):
    """Rounds to the 256 steps between two limits, and stays within them."""

    def __init__(self, low: float, high: float):
        super().__init__()
        self.step = (high - low) / _LEVELS
        zero = round(-low / self.step)
        self.low, self.high = -zero * self.step, (_LEVELS - zero) * self.step

    def call(self, inputs):
        clipped = ops.clip(inputs, self.low, self.high)
        return _straight_through(clipped, ops.round(clipped / self.step) * self.step)


def _straight_through(values, rounded):
    return values + ops.stop_gradient(rounded - values)


def _rounded_kernel(kernel, axis: int):
    """Rounds a kernel to 8 bits with a step for each output channel, zero in the middle."""
    others = [other for other in range(len(kernel.shape)) if other != axis]
    step = ops.max(ops.abs(kernel), axis=others, keepdims=True) / 127
    step = ops.stop_gradient(ops.maximum(step, 1e-12))
    return _straight_through(kernel, ops.round(kernel / step) * step)


class _Trainer(keras.Model):
    """A network with rounding, and the one without that teaches it."""

    def __init__(self, teacher: keras.Model, rounded: keras.Model):
        super().__init__(name="trainer")
        self.rounded = rounded
        # Behind a function, so that Keras does not take its weights for this model's.
        self._expected = lambda images: teacher(images, training=False)
        activation = getattr(teacher.layers[-1], "activation", None)
        self._gives_probabilities = activation is keras.activations.softmax
        kinds = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
        self._kernels = [
            (layer.kernel, 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else -1)
            for layer in rounded._flatten_layers()  # those inside of layers too
            if isinstance(layer, kinds)
        ]

    def call(self, images, training=None):
        mapping = [
            (kernel, _rounded_kernel(kernel.value, axis % len(kernel.shape)))
            for kernel, axis in self._kernels
        ]
        with keras.StatelessScope(state_mapping=mapping):
            return self.rounded(images, training=False)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        expected = ops.stop_gradient(self._expected(x))
        if not self._gives_probabilities:
            expected, y_pred = ops.softmax(expected), ops.softmax(y_pred)
        return ops.mean(keras.losses.kl_divergence(expected, y_pred))


def _rounded(model: keras.Model, images: np.ndarray) -> keras.Model:
    """Returns a copy of a network that rounds everything that goes into a layer."""
    seen: list[tuple[Any, bool]] = []

    def look(tensor, layer):
        activation = getattr(layer, "activation", None)
        swish = isinstance(layer, layers.Swish) or activation is keras.activations.silu
        seen.append((tensor, swish))
        return tensor

    plain = _copy(model, look)
    taps = keras.Model(plain.input, [tensor for tensor, _ in seen])
    limits = iter(_limits(taps, [swish for _, swish in seen], images))
    # Copies are made in the same order.
    return _copy(model, lambda tensor, layer: _FakeQuantize(*next(limits))(tensor))


def _limits(
    taps: keras.Model, swishes: list[bool], images: np.ndarray
) -> Iterator[tuple[float, float]]:
    """Yields the range of each tensor, chosen as for a file."""
    rng = np.random.default_rng(0)
    samples: list[list[np.ndarray]] = [[] for _ in swishes]
    for image in images[:RANGE_IMAGES]:
        for kept, values in zip(samples, taps(image[None], training=False), strict=True):
            values = np.ravel(keras.ops.convert_to_numpy(values))
            chosen = rng.integers(0, values.size, min(values.size, VALUES_AN_IMAGE))
            kept.append(values[chosen])
    for index, (kept, swish) in enumerate(zip(samples, swishes, strict=True)):
        low, high = np.quantile(np.concatenate(kept), [TAIL, 1 - TAIL])
        if swish:
            low = max(low, SWISH_FLOOR)
        if not index:  # the images themselves
            low, high = images.min(), images.max()
        low, high = min(float(low), 0.0), max(float(high), 0.0)
        yield low, high if high > low else low + 1e-6


def _copy(model: keras.Model, at_inputs: Callable[[Any, Any], Any]) -> keras.Model:
    """Copies a network, and lets a function replace each tensor that goes into a layer."""
    replaced: dict[int, tuple[Any, Any]] = {}

    def call(layer, *inputs, **options):
        def replace(tensor):
            if id(tensor) not in replaced:  # the tensor is kept, so that its id stays its own
                replaced[id(tensor)] = tensor, at_inputs(tensor, layer)
            return replaced[id(tensor)][1]

        if not isinstance(layer, _PASSING):
            inputs = keras.tree.map_structure(replace, inputs)
        return layer(*inputs, **options)

    copy = keras.models.clone_model(model, call_function=call)
    _copy_weights(model, copy)
    return copy


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    for layer in source.layers:
        if layer.weights:
            target.get_layer(layer.name).set_weights(layer.get_weights())
