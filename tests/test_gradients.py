"""The fast path of a training step against the plain operations: values and gradients."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_efficientnet as ke
from keras_efficientnet import gradients, layers

pytestmark = pytest.mark.skipif(not gradients.on_cpu(), reason="the fast path is for CPUs on Linux")

SHAPE = (3, 7, 6, 8)


def built(layer, shape=SHAPE):
    """A layer with random weights."""
    rng = np.random.default_rng(1)
    layer.build(shape)
    for weight in layer.weights:
        weight.assign(rng.uniform(0.3, 1.2, weight.shape) * rng.choice([-1, 1], weight.shape))
    return layer


def images(shape=SHAPE):
    return tf.constant(np.random.default_rng(2).normal(0.5, 2, shape), tf.float32)


def step(call, layers_used, x, monkeypatch=None, jit_compile=False):
    """Values, and gradients for the images and all weights, in a graph of a training step.

    With `monkeypatch`, by the plain operations.
    """
    target = tf.constant(np.random.default_rng(3).normal(size=call(x).shape), tf.float32)
    variables = [weight.value for layer in layers_used for weight in layer.trainable_weights]

    def both(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = call(x)
            loss = tf.reduce_sum(y * target)
        return y, tape.gradient(loss, [x, *variables])

    run: Any = tf.function(both, autograph=False, jit_compile=jit_compile)
    if monkeypatch:
        with monkeypatch.context() as patch:
            patch.setattr(gradients, "applies_to", lambda images: False)
            run.get_concrete_function(x)
    kinds = {operation.type for operation in run.get_concrete_function(x).graph.get_operations()}
    y, found = run(x)
    return [y, *found], kinds


def assert_equal_steps(call, layers_used, x, monkeypatch, jit_compile=False):
    """Both paths give the same; returns the kinds of operations of each."""
    ours, fast = step(call, layers_used, x, jit_compile=jit_compile)
    expected, plain = step(call, layers_used, x, monkeypatch)
    for one, other in zip(ours, expected, strict=True):
        assert one.shape == other.shape
        scale = float(tf.reduce_max(tf.abs(other)))
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-6 * scale)
    return fast, plain


def compiles(kinds):
    return bool(kinds & {"PartitionedCall", "StatefulPartitionedCall"})


def test_swish(monkeypatch):
    layer = built(layers.Swish())
    fast, plain = assert_equal_steps(
        lambda x: layer(x, training=True), [layer], images(), monkeypatch
    )
    assert compiles(fast)
    assert not compiles(plain)


@pytest.mark.parametrize("shape", [SHAPE, (1, 1, 1, 8), (2, 1, 1, 8)])
def test_swish_behind_batch_normalization(shape, monkeypatch):
    norm, swish = built(layers.BatchNormalization(), shape), layers.Swish()

    def call(x):
        return swish(norm(x, training=True), training=True)

    fast, _ = assert_equal_steps(call, [norm], images(shape), monkeypatch)
    assert compiles(fast)


def test_a_step_that_xla_compiles_as_a_whole(monkeypatch):
    norm, swish = built(layers.BatchNormalization()), layers.Swish()
    excite = built(layers.SqueezeExcite(2))

    def call(x):
        return excite(swish(norm(x, training=True), training=True), training=True)

    assert_equal_steps(call, [norm, excite], images(), monkeypatch, jit_compile=True)


BLOCKS = {
    "depthwise": lambda: [layers.DepthwiseConv2D(5, padding="same", use_bias=False)],
    "squeeze_excite": lambda: [layers.SqueezeExcite(2), layers.Conv2D(5, 1, use_bias=False)],
}


@pytest.fixture(params=BLOCKS)
def block(request):
    """What follows an expansion in a block: layers to call one after the other."""
    norm, *others = (
        built(layer) for layer in (layers.BatchNormalization(), *BLOCKS[request.param]())
    )
    return [norm, layers.Swish(), *others]


def called(block, x):
    """What each of the layers gives."""
    outputs = []
    for layer in block:
        x = layer(x, training=True)
        outputs.append(x)
    return outputs


def test_a_block(block, monkeypatch):
    assert_equal_steps(lambda x: called(block, x)[-1], block, images(), monkeypatch)


def test_gradients_recompute_what_they_need_not_keep(block):
    kept = []

    def loss(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            *recomputable, last = called(block, x)
            total = tf.reduce_sum(last**2)
        forward = len(x.graph.get_operations())
        found = tape.gradient(total, [x, *(layer.kernel.value for layer in block[-1:])])
        backward = x.graph.get_operations()[forward:]
        used = {each.name for op in backward for each in op.inputs}
        kept.extend(one.name for one in recomputable if one.name in used)
        return found

    graph_of(loss)
    assert not kept


def test_a_block_can_be_differentiated_twice(block, monkeypatch):
    x = images()
    variables = [weight.value for layer in block for weight in layer.trainable_weights]

    def penalty(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = tf.reduce_sum(called(block, x)[-1] ** 2)
            slopes: Any = inner.gradient(y, [x, *variables])
            total = tf.add_n([tf.reduce_sum(slope**2) for slope in slopes])
        return outer.gradient(total, [x, *variables])

    ours = tf.function(penalty, autograph=False)(x)
    monkeypatch.setattr(gradients, "applies_to", lambda images: False)
    for one, other in zip(ours, tf.function(penalty, autograph=False)(x), strict=True):
        scale = float(tf.reduce_max(tf.abs(other)))
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * scale)


@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_squeeze_excite(activation, monkeypatch):
    layer = built(layers.SqueezeExcite(2, activation=activation))
    fast, plain = assert_equal_steps(
        lambda x: layer(x, training=True), [layer], images(), monkeypatch
    )
    assert compiles(fast)
    assert not compiles(plain)


def test_pointwise_convolution(monkeypatch):
    layer = built(layers.Conv2D(5, 1, use_bias=False))
    fast, plain = assert_equal_steps(
        lambda x: layer(x, training=True), [layer], images(), monkeypatch
    )
    assert "Conv2D" not in fast
    assert "Conv2D" in plain


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("size", [(7, 6), (12, 9), (1, 2)])
def test_depthwise_convolution(stride, size, monkeypatch):
    shape = (2, *size, 8)
    layer = layers.DepthwiseConv2D(5, stride, padding="same", use_bias=False)
    built(layer, shape)
    fast, plain = assert_equal_steps(
        lambda x: layer(x, training=True), [layer], images(shape), monkeypatch
    )
    assert fast - plain >= {"Pad"}


def test_the_gradient_of_a_depthwise_kernel_pads_its_images_when_they_are_needed():
    layer = built(layers.DepthwiseConv2D(5, padding="same", use_bias=False))

    def loss(x):
        with tf.GradientTape() as tape:
            total = tf.reduce_sum(layer(x, training=True) ** 2)
        return tape.gradient(total, layer.kernel.value)

    graph = tf.function(loss, autograph=False).get_concrete_function(images()).graph
    (pad,) = (op for op in graph.get_operations() if op.type == "Pad")
    assert pad.control_inputs  # the upstream gradient, or copies would be kept from early on


@pytest.mark.parametrize(
    "layer",
    [
        layers.Conv2D(5, 1),
        layers.Conv2D(5, 1, use_bias=False, activation="relu"),
        layers.Conv2D(5, 3, use_bias=False, padding="same"),
        layers.Conv2D(5, 1, 2, use_bias=False),
        layers.DepthwiseConv2D(3, padding="same", use_bias=False),
        layers.DepthwiseConv2D(5, padding="valid", use_bias=False),
        layers.DepthwiseConv2D(5, padding="same"),
        layers.DepthwiseConv2D(5, padding="same", use_bias=False, depth_multiplier=2),
        layers.DepthwiseConv2D(5, padding="same", use_bias=False, dilation_rate=2),
    ],
)
def test_other_convolutions_are_keras_own(layer, monkeypatch):
    kind: Any = type(layer).__base__
    plain = kind.from_config(layer.get_config())
    built(layer)
    built(plain)
    ours, kinds = step(lambda x: layer(x, training=True), [layer], images())
    expected, expected_kinds = step(lambda x: plain(x), [plain], images())
    assert kinds == expected_kinds
    for one, other in zip(ours, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def graph_of(call, dtype="float32"):
    return tf.function(call, autograph=False).get_concrete_function(tf.TensorSpec(SHAPE, dtype))


@pytest.mark.parametrize("training", [False, None])
def test_inference_is_plain(training, small):
    model = ke.EfficientNet(small)
    spec = tf.TensorSpec((1, 64, 64, 3))
    graph = (
        tf.function(lambda x: model(x, training=training), autograph=False)
        .get_concrete_function(spec)
        .graph
    )
    kinds = {operation.type for operation in graph.get_operations()}
    assert "Conv2D" in kinds
    assert not compiles(kinds)


def test_half_precision_is_plain():
    layer = layers.Swish(dtype="bfloat16")

    def slope(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True)
        return tape.gradient(y, x)

    kinds = {op.type for op in graph_of(slope, "bfloat16").graph.get_operations()}
    assert not compiles(kinds)


def test_a_network_learns_the_same_on_both_paths(small, randomize, monkeypatch):
    rng = np.random.default_rng(4)
    pixels, labels = rng.uniform(0, 255, (6, 64, 64, 3)).astype("float32"), np.arange(6) % 3
    model = randomize(ke.EfficientNet(small, classes=3, dropout_rate=0.0, drop_connect_rate=0.0))
    before = model.get_weights()
    results = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(gradients, "applies_to", lambda images: False)
        model.set_weights(before)
        model.compile(keras.optimizers.SGD(0.01), "sparse_categorical_crossentropy")
        loss = model.train_on_batch(pixels, labels)
        results.append([np.ravel(loss), *model.get_weights()])
    for ours, expected in zip(*results, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-5)
