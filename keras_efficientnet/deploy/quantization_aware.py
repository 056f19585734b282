"""Quantization-aware fine-tuning: makes a network robust against 8-bit rounding.

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

from keras_efficientnet import layers
from keras_efficientnet.bars import Bar
from keras_efficientnet.deploy.calibration import RangeObserver
from keras_efficientnet.deploy.int8_quantizer import PIXELS, Range

PEAK_LEARNING_RATE = 3e-5
BATCH_SIZE = 16
# What goes into these is not rounded: a file folds batch normalization into the convolution
# ahead, and has no dropout (which StochasticDepth is).
_NOT_ROUNDED = (
    keras.layers.InputLayer,
    keras.layers.Dropout,
    keras.layers.BatchNormalization,
)
_WITH_KERNEL = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)
_LEVELS = 255


def fine_tune(
    model: keras.Model,
    images: np.ndarray,
    epochs: int,
    *,
    range_images: np.ndarray,
    input_range: Range = PIXELS,
) -> keras.Model:
    """Trains a copy of a network under the rounding of an 8-bit file.

    Args:
        model: a functional classifier that gives probabilities or logits.
        images: training images as the network takes them, `[count, height, width, channels]`;
            some hundred will do.
        epochs: passes over them.
        range_images: that ranges of activations are taken from, in the same form.
        input_range: that the network's input can have.

    Returns:
        The copy, to be exported and quantized as any network.
    """
    steps = epochs * max(1, len(images) // BATCH_SIZE)
    trainer = _Trainer(model, FakeQuantized(model, range_images, input_range))
    schedule = keras.optimizers.schedules.CosineDecay(PEAK_LEARNING_RATE, steps)
    # XLA on CPUs takes minutes to compile a network of this depth.
    trainer.compile(optimizer=keras.optimizers.Adam(schedule), jit_compile=False)
    batches = islice(_batches(images, BATCH_SIZE), steps)
    with Bar(batches, "Fine-tuning in 8 bits", steps, leave=False) as bar:
        for batch in bar:
            loss = np.ravel(trainer.train_on_batch(batch))[0]
            bar.set_postfix(loss=f"{loss:.4f}")
    tuned = keras.models.clone_model(model)
    _copy_weights(trainer.student.network, tuned)
    return tuned


def _batches(images: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yields shuffled images without end, each shifted by up to a sixteenth of its side."""
    rng = np.random.default_rng(0)
    height, width = images.shape[1:3]
    largest = max(height, width) // 16
    while True:
        order = rng.permutation(len(images))
        for start in range(0, max(1, len(order) - size + 1), size):
            batch = images[order[start : start + size]].astype(np.float32)
            borders = ((0, 0), (largest, largest), (largest, largest), (0, 0))
            padded = np.pad(batch, borders, mode="edge")
            shifts = rng.integers(0, 2 * largest + 1, (len(batch), 2))
            yield np.stack(
                [
                    image[top : top + height, left : left + width]
                    for image, (top, left) in zip(padded, shifts, strict=True)
                ]
            )


class FakeQuantized(keras.Model):
    """A copy of a network that computes with the rounding of an 8-bit file.

    Args:
        model: the network.
        images: that ranges of activations are taken from, as the network takes them.
        input_range: that the network's input can have.

    Attributes:
        network: the copy; activations are rounded in it, and its own weights are not.
        kernels: its variables that are rounded when it is called, each with the axis of the
            output channels.
    """

    def __init__(self, model: keras.Model, images: np.ndarray, input_range: Range = PIXELS):
        super().__init__(name="fake_quantized")
        self.network = _with_rounding(model, images, input_range)
        self.kernels = [
            (layer.kernel, 2 if isinstance(layer, keras.layers.DepthwiseConv2D) else -1)
            for layer in self.network._flatten_layers()  # those inside of layers too
            if isinstance(layer, _WITH_KERNEL)
        ]

    def call(self, images, training=None):
        """Runs the network with rounded kernels and activations."""
        mapping = [
            (kernel, fake_quantize_kernel(kernel.value, axis % len(kernel.shape)))
            for kernel, axis in self.kernels
        ]
        with keras.StatelessScope(state_mapping=mapping):
            return self.network(images, training=False)


def fake_quantize_kernel(kernel, axis: int):
    """Rounds a kernel to 8 bits, with a step of its own and zero in the middle for each channel.

    Args:
        kernel: of any shape.
        axis: of the output channels.
    """
    others = [other for other in range(len(kernel.shape)) if other != axis]
    step = ops.max(ops.abs(kernel), axis=others, keepdims=True) / 127
    step = ops.stop_gradient(ops.maximum(step, 1e-12))
    return _straight_through(kernel, ops.round(kernel / step) * step)


class _FakeQuantize(keras.layers.Layer):
    """Rounds to the 256 steps between two limits, and clips to them."""

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


class _Trainer(keras.Model):
    """A network with rounding, and the one without that teaches it."""

    def __init__(self, teacher: keras.Model, student: FakeQuantized):
        super().__init__(name="trainer")
        self.student = student
        # Behind a function, so that Keras does not take its weights for this model's.
        self._expected = lambda images: teacher(images, training=False)
        activation = getattr(teacher.layers[-1], "activation", None)
        self._gives_probabilities = activation is keras.activations.softmax

    def call(self, images, training=None):
        return self.student(images)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        expected = ops.stop_gradient(self._expected(x))
        if not self._gives_probabilities:
            expected, y_pred = ops.softmax(expected), ops.softmax(y_pred)
        return ops.mean(keras.losses.kl_divergence(expected, y_pred))


def _with_rounding(model: keras.Model, images: np.ndarray, input_range: Range) -> keras.Model:
    """Returns a copy of a network that rounds everything that goes into a layer."""
    read: list[tuple[Any, RangeObserver]] = []

    def record(tensor, layer):
        activation = getattr(layer, "activation", None)
        swish = isinstance(layer, layers.Swish) or activation is keras.activations.silu
        read.append((tensor, RangeObserver("swish" if swish else "")))
        return tensor

    plain = _copy(model, record)
    tensors, observers = zip(*read, strict=True)
    outputs = keras.Model(plain.input, list(tensors))
    for image in images.astype(np.float32):
        for observer, values in zip(observers, outputs(image[None], training=False), strict=True):
            observer.observe(np.asarray(keras.ops.convert_to_numpy(values)))
    # The network's input is the first tensor that a layer reads; copies are made in one order.
    ranges = iter([input_range, *(observer.range() for observer in observers[1:])])
    return _copy(model, lambda tensor, layer: _FakeQuantize(*next(ranges))(tensor))


def _copy(model: keras.Model, at_inputs: Callable[[Any, Any], Any]) -> keras.Model:
    """Copies a network, and lets a function replace each tensor that goes into a layer."""
    replaced: dict[int, tuple[Any, Any]] = {}

    def call(layer, *inputs, **options):
        def replace(tensor):
            if id(tensor) not in replaced:  # the tensor is kept, so that its id stays its own
                replaced[id(tensor)] = tensor, at_inputs(tensor, layer)
            return replaced[id(tensor)][1]

        if not isinstance(layer, _NOT_ROUNDED):
            inputs = keras.tree.map_structure(replace, inputs)
        return layer(*inputs, **options)

    copy = keras.models.clone_model(model, call_function=call)
    _copy_weights(model, copy)
    return copy


def _copy_weights(source: keras.Model, target: keras.Model) -> None:
    for layer in source.layers:
        if layer.weights:
            target.get_layer(layer.name).set_weights(layer.get_weights())
