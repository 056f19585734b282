import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops

import keras_efficientnet as ke
from keras_efficientnet.layers import (
    BatchNormalization,
    Normalize,
    SqueezeExcite,
    StochasticDepth,
    Swish,
)

IMAGES = [(8, 5, 7, 6), (3, 1, 1, 4), (1, 1, 1, 4), (1, 4, 3, 2)]


def array(values) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(values))


def sigmoid(values):
    return 1 / (1 + np.exp(-values))


def batch_norm_pair(shape, **options):
    """Ours and Keras' layer with the same random values."""
    rng = np.random.default_rng(1)
    pair = BatchNormalization(**options), keras.layers.BatchNormalization(**options)
    for layer in pair:
        layer.build(shape)
    for ours, theirs in zip(pair[0].weights, pair[1].weights, strict=True):
        assert ours.name == theirs.name
        assert ours.dtype == theirs.dtype
        value = rng.uniform(0.5, 1.5, ours.shape)
        ours.assign(value)
        theirs.assign(value)
    return pair


def traced_operations(layer, shape, training, dtype="float32"):
    function = tf.function(lambda x: layer(x, training=training))
    graph = function.get_concrete_function(tf.TensorSpec(shape, dtype)).graph
    return {operation.type for operation in graph.get_operations()}


def test_swish_is_x_times_sigmoid():
    x = np.linspace(-9, 9, 37, dtype="float32").reshape(1, 37)
    np.testing.assert_allclose(array(Swish()(x)), x * sigmoid(x), rtol=1e-5, atol=1e-7)


def test_batch_norm_takes_the_fused_kernel_for_images():
    for training in (True, False):
        for dtype in ("float32", "float16", "bfloat16"):
            layer = BatchNormalization(dtype="float32" if dtype == "float32" else f"mixed_{dtype}")
            layer.build((None, 4, 4, 3))
            assert "FusedBatchNormV3" in traced_operations(
                layer, (None, 4, 4, 3), training=training, dtype=dtype
            )


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_batch_norm_values_and_gradients_equal_keras(shape, training, affine):
    options = {"epsilon": 1e-3, "scale": affine, "center": affine}
    rng = np.random.default_rng(2)
    x = tf.constant(rng.normal(3, 2, shape), tf.float32)
    # Unequal weights: a plain sum has a gradient of 0 through the batch statistics.
    target = tf.constant(rng.normal(size=shape), tf.float32)
    results = []
    for layer in batch_norm_pair(shape, **options):
        variables = [weight.value for weight in layer.trainable_weights]
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=training)
            loss = tf.reduce_sum(y * target)
        results.append([y, *tape.gradient(loss, [x, *variables])])
    assert len(results[0]) == (4 if affine else 2)
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(array(ours), array(theirs), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("shape", IMAGES)
@pytest.mark.parametrize("compiled", ["eager", "graph", "xla"])
def test_batch_norm_moving_statistics_equal_keras_and_the_formula(shape, compiled):
    rng = np.random.default_rng(3)
    pair = batch_norm_pair(shape, momentum=0.9)
    steps = [
        layer if compiled == "eager" else tf.function(layer, jit_compile=compiled == "xla")
        for layer in pair
    ]
    mean = array(pair[0].moving_mean).astype("float64")
    variance = array(pair[0].moving_variance).astype("float64")
    for _ in range(5):
        x = rng.normal(3, 2, shape).astype("float32")
        for step in steps:
            step(tf.constant(x), training=True)
        mean = 0.9 * mean + 0.1 * x.mean((0, 1, 2), dtype="float64")
        # The biased variance: Keras divides by the count, not by one less.
        variance = 0.9 * variance + 0.1 * x.var((0, 1, 2), dtype="float64")
    for layer in pair:
        np.testing.assert_allclose(array(layer.moving_mean), mean, rtol=2e-6)
        np.testing.assert_allclose(array(layer.moving_variance), variance, rtol=2e-6)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_batch_norm_keeps_float32_statistics_for_half_precision(half):
    rng = np.random.default_rng(4)
    # Squares of these overflow float16; their mean needs more digits than bfloat16 has.
    x = ops.cast(rng.normal(300, 500, (16, 8, 8, 3)), half)
    pair = batch_norm_pair((None, 8, 8, 3), momentum=0.5, dtype=f"mixed_{half}")
    outputs = [layer(x, training=True) for layer in pair]
    assert outputs[0].dtype == half
    exact = array(ops.cast(x, "float64"))
    for layer, output in zip(pair, outputs, strict=True):
        assert layer.moving_variance.dtype == "float32"
        initial = batch_norm_pair((None, 8, 8, 3))[0]
        np.testing.assert_allclose(
            array(layer.moving_mean),
            0.5 * array(initial.moving_mean) + 0.5 * exact.mean((0, 1, 2)),
            rtol=1e-5,
        )
        np.testing.assert_allclose(
            array(layer.moving_variance),
            0.5 * array(initial.moving_variance) + 0.5 * exact.var((0, 1, 2)),
            rtol=1e-5,
        )
        expected = (exact - exact.mean((0, 1, 2))) / np.sqrt(exact.var((0, 1, 2)) + 1e-3)
        expected = expected * array(initial.gamma) + array(initial.beta)
        np.testing.assert_allclose(
            array(ops.cast(output, "float32")), expected, rtol=2**-7, atol=2**-7
        )
    # The last digit of bfloat16 at 1 is 2**-7.
    inference = [array(ops.cast(layer(x, training=False), "float32")) for layer in pair]
    np.testing.assert_allclose(*inference, rtol=2**-7, atol=2**-7)


def test_a_frozen_batch_norm_stays_in_inference_mode():
    x = np.random.default_rng(5).normal(3, 2, (4, 3, 3, 2)).astype("float32")
    layer, _ = batch_norm_pair(x.shape)
    inference = array(layer(x, training=False))
    assert not np.allclose(inference, array(layer(x, training=True)))
    layer.trainable = False
    before = [array(weight) for weight in layer.weights]
    inference = array(layer(x, training=False))
    np.testing.assert_array_equal(array(layer(x, training=True)), inference)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(array(weight), value)


def test_batch_norm_and_keras_read_each_other_s_config():
    ours = BatchNormalization(axis=-1, momentum=0.7, epsilon=0.01, center=False, name="bn")
    theirs = keras.layers.BatchNormalization.from_config(ours.get_config())
    assert theirs.get_config() == ours.get_config()
    back = BatchNormalization.from_config(theirs.get_config())
    assert (back.momentum, back.epsilon, back.center, back.name) == (0.7, 0.01, False, "bn")


@pytest.mark.parametrize(
    ("shape", "axis"), [((4, 6), -1), ((4, 5, 6), -1), ((2, 3, 4, 5, 6), -1), ((4, 6, 3, 5), 1)]
)
def test_batch_norm_leaves_other_shapes_to_keras(shape, axis):
    x = np.random.default_rng(6).normal(3, 2, shape).astype("float32")
    pair = batch_norm_pair(shape, axis=axis, momentum=0.5)
    assert pair[0].gamma.shape == (6,)
    outputs = [array(layer(x, training=True)) for layer in pair]
    np.testing.assert_allclose(*outputs, rtol=1e-5, atol=1e-5)
    moments = [array(layer.moving_variance) for layer in pair]
    np.testing.assert_allclose(*moments, rtol=1e-5)
    assert "FusedBatchNormV3" not in traced_operations(pair[0], shape, training=True)


def test_batch_norm_leaves_a_mask_to_keras():
    x = np.random.default_rng(7).normal(3, 2, (4, 3, 5, 2)).astype("float32")
    mask = np.zeros((4, 3, 5), bool)
    mask[:2] = True
    pair = batch_norm_pair(x.shape, momentum=0.5)
    for layer in pair:
        layer(x, training=True, mask=ops.convert_to_tensor(mask))
    means = [array(layer.moving_mean) for layer in pair]
    np.testing.assert_allclose(*means, rtol=1e-5)
    initial = array(batch_norm_pair(x.shape)[0].moving_mean)
    np.testing.assert_allclose(means[0], (initial + x[:2].mean((0, 1, 2))) / 2, rtol=1e-5)


def test_stochastic_depth_drops_whole_images_and_scales_the_rest():
    x = np.ones((4000, 2, 2, 3), "float32")
    y = array(StochasticDepth(0.3, seed=1)(x, training=True))
    per_image = y.reshape(4000, -1)
    kept = per_image[:, 0] > 0
    np.testing.assert_allclose(per_image[kept], 1 / 0.7, rtol=1e-6)
    np.testing.assert_array_equal(per_image[~kept], 0)
    # Five standard deviations of a mean of 4000 draws.
    assert abs(kept.mean() - 0.7) < 5 * np.sqrt(0.3 * 0.7 / 4000)


def test_stochastic_depth_draws_each_time_and_repeats_by_seed():
    x = np.ones((64, 1, 1, 1), "float32")
    layer, same = StochasticDepth(0.5, seed=3), StochasticDepth(0.5, seed=3)
    first, second = array(layer(x, training=True)), array(layer(x, training=True))
    assert (first != second).any()
    np.testing.assert_array_equal(first, array(same(x, training=True)))


def test_stochastic_depth_is_the_identity_in_inference():
    x = np.random.default_rng(8).normal(size=(5, 2, 2, 3)).astype("float32")
    layer = StochasticDepth(0.9)
    np.testing.assert_array_equal(array(layer(x, training=False)), x)
    np.testing.assert_array_equal(array(layer(x)), x)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 2])
def test_stochastic_depth_refuses_a_rate_that_is_no_probability(rate):
    with pytest.raises(ke.InputError, match=f"rate={rate} must be at least 0 and below 1"):
        StochasticDepth(rate)


# ImageNet statistics, in 0-255.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


def test_normalize_subtracts_and_divides_per_channel():
    pixels = np.array([[[[123.675, 116.28, 103.53], [182.07, 173.4, 160.905], [0, 0, 0]]]])
    expected = [[[[0, 0, 0], [1, 1, 1], [-2.117904, -2.035714, -1.804444]]]]
    layer = Normalize(MEAN, STD)
    np.testing.assert_allclose(array(layer(pixels)), expected, atol=1e-6)
    assert layer.weights == []


def test_normalize_takes_whole_numbers():
    pixels = np.arange(0, 252, dtype="uint8").reshape(1, 7, 12, 3)
    layer = Normalize(MEAN, STD)
    expected = (pixels.astype("float64") - MEAN) / STD
    np.testing.assert_allclose(array(layer(pixels)), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("half", "digits"), [("bfloat16", 8), ("float16", 11)])
def test_normalize_rounds_once_in_half_precision(half, digits):
    # bfloat16 has whole numbers only from 128 on: cast first, these pixels would merge.
    pixels = np.arange(128, 255, 0.25, dtype="float32").reshape(1, 4, 127, 1).repeat(3, -1)
    y = Normalize(MEAN, STD, dtype=f"mixed_{half}")(pixels)
    assert y.dtype == half
    expected = (pixels.astype("float64") - MEAN) / STD
    rounded = array(ops.cast(y, "float32"))
    np.testing.assert_allclose(rounded, expected, rtol=1.01 * 2.0**-digits)


@pytest.mark.parametrize(
    ("mean", "std"), [((0.0, 0.0), (1.0,)), ((0.0,), (0.0,)), ((0.0,), (-1.0,))]
)
def test_normalize_refuses_unusable_constants(mean, std):
    with pytest.raises(ke.InputError, match=r"must have one value for each channel"):
        Normalize(mean, std)


@pytest.mark.parametrize("activation", ["swish", "relu"])
def test_squeeze_excite_equals_the_formula(activation):
    rng = np.random.default_rng(9)
    x = rng.normal(1, 2, (3, 5, 4, 8)).astype("float32")
    layer = SqueezeExcite(2, activation=activation)
    layer.build(x.shape)
    for weight in layer.weights:
        weight.assign(rng.normal(size=weight.shape))
    w1, b1, w2, b2 = (array(weight).astype("float64") for weight in layer.weights)
    assert (w1.shape, b1.shape, w2.shape, b2.shape) == ((1, 1, 8, 2), (2,), (1, 1, 2, 8), (8,))

    squeezed = x.mean((1, 2)) @ w1[0, 0] + b1
    squeezed = squeezed * sigmoid(squeezed) if activation == "swish" else np.maximum(squeezed, 0)
    gate = sigmoid(squeezed @ w2[0, 0] + b2)
    np.testing.assert_allclose(array(layer(x)), x * gate[:, None, None, :], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_squeeze_excite_averages_large_images_in_half_precision(half):
    # The sum over this image does not fit in float16, and stalls in bfloat16.
    x = np.full((1, 160, 160, 4), 8.0, "float32")
    layer = SqueezeExcite(1, dtype=f"mixed_{half}")
    layer.build(x.shape)
    for weight, value in zip(layer.weights, (0.25, 0.0, 0.125, 0.0), strict=True):
        weight.assign(np.full(weight.shape, value))
    # Mean 8, bottleneck swish(8), gate sigmoid(1).
    expected = 8 * sigmoid(0.125 * 8 * sigmoid(8.0))
    y = layer(x)
    assert y.dtype == half
    np.testing.assert_allclose(array(ops.cast(y, "float32")), expected, rtol=2**-7)


def test_squeeze_excite_refuses_an_empty_bottleneck():
    with pytest.raises(ke.InputError, match="filters=0 must be at least 1"):
        SqueezeExcite(0)


@pytest.mark.parametrize(
    "make",
    [functools.partial(SqueezeExcite, 2), functools.partial(Normalize, MEAN, STD)],
    ids=["SqueezeExcite", "Normalize"],
)
@pytest.mark.usefixtures("channels_first")
def test_the_data_format_is_stored_and_keras_setting_read_once(make):
    made = make()
    keras.config.set_image_data_format("channels_last")
    assert made.get_config()["data_format"] == "channels_first"
    copy = type(made).from_config(made.get_config())
    x = np.random.default_rng(11).uniform(0, 255, (2, 3, 5, 4)).astype("float32")
    given = make(data_format="channels_last")
    for layer, pixels in ((made, x), (copy, x), (given, x.transpose(0, 2, 3, 1))):
        layer.build(pixels.shape)
        for weight, value in zip(layer.weights, made.weights, strict=True):
            weight.assign(value)
    expected = array(given(x.transpose(0, 2, 3, 1))).transpose(0, 3, 1, 2)
    for layer in (made, copy):
        np.testing.assert_allclose(array(layer(x)), expected, rtol=1e-5, atol=1e-5)
    # Files of versions that did not store it follow the setting, as they did.
    config = made.get_config()
    del config["data_format"]
    assert type(made).from_config(config).data_format == "channels_last"
    with pytest.raises(ke.InputError, match="data_format='NCHW' must be one of channels_last, "):
        make(data_format="NCHW")


@pytest.mark.parametrize(
    "layer",
    [
        Swish(name="a"),
        SqueezeExcite(3, activation="relu", kernel_initializer="zeros", name="b"),
        StochasticDepth(0.25, seed=7, name="c"),
        Normalize((1.0, 2.0), (3.0, 4.0), dtype="mixed_bfloat16", name="d"),
        BatchNormalization(momentum=0.8, epsilon=0.02, name="e"),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_survives_serialization(layer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()
    x = np.random.default_rng(10).normal(size=(2, 3, 3, 2)).astype("float32")
    ours, theirs = layer(x), copy(x)
    for a, b in zip(layer.weights, copy.weights, strict=True):
        b.assign(a)
    np.testing.assert_array_equal(array(ours), array(theirs if not layer.weights else copy(x)))
