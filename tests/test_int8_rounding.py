"""Rounding weights by what a layer gives."""

import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet.deploy.int8_quantizer import (
    computed,
    observe,
    quantize,
    quantize_weights,
    run,
)
from keras_efficientnet.deploy.int8_rounding import Rounding, round_weights
from keras_efficientnet.deploy.tflite_graph import Graph

SIZE = 9


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """Layers of every kind, with strides and paddings at which places are easily mistaken."""
    keras.utils.set_random_seed(0)
    noise = keras.initializers.RandomNormal(stddev=0.3)
    image = x = keras.Input((SIZE, SIZE, 3))
    options = {"kernel_initializer": noise, "bias_initializer": noise}
    depthwise = {"depthwise_initializer": noise, "bias_initializer": noise}
    x = keras.layers.Rescaling(1 / 255)(x)
    x = keras.layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", **options)(x)
    x = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu6", **depthwise)(x)
    x = keras.layers.Conv2D(8, 1, **options)(x)
    x = keras.layers.DepthwiseConv2D(3, strides=2, padding="valid", **depthwise)(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, keras.layers.Dense(5, **options)(x))
    path = tmp_path_factory.mktemp("float") / "float.tflite"
    ke.deploy.export_tflite(model, path, ke.ModelDescription("tiny", (), SIZE, 1.0))
    return path.read_bytes()


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).integers(0, 256, (40, SIZE, SIZE, 3)).astype(np.float32)


def correlated(rng, count, inputs):
    """Inputs with a mean and with much in common, as after a ReLU; the last is 1."""
    mixed = rng.normal(size=(count, inputs)) @ rng.normal(size=(inputs, inputs))
    return np.append(np.maximum(mixed + 1, 0), np.ones((count, 1)), 1)


def test_outputs_change_less_than_by_rounding_to_the_nearest_step():
    rng = np.random.default_rng(0)
    inputs, weights = correlated(rng, 2000, 70), rng.normal(size=(1, 12, 71))
    steps = np.full((1, 12), 0.05)
    found = round_weights(weights, (inputs.T @ inputs / 2000)[None], steps, with_bias=True)
    whole = found[..., :-1] / 0.05
    np.testing.assert_allclose(whole, np.round(whole), atol=1e-9)
    nearest = np.append(np.round(weights[..., :-1] / 0.05) * 0.05, weights[..., -1:], -1)
    error, plain = (np.square(inputs @ (w - weights)[0].T).mean() for w in (found, nearest))
    assert error < 0.5 * plain
    np.testing.assert_allclose((inputs @ (found - weights)[0].T).mean(0), 0, atol=1e-3)


def test_weights_stay_within_127_steps_and_dead_inputs_do_no_harm():
    weights = np.array([[[1.0, -2.0, 0.3, 5.0]]])
    products = np.zeros((1, 4, 4))
    products[0, 3, 3] = 1
    found = round_weights(weights, products, np.array([[0.01]]), with_bias=True)
    np.testing.assert_allclose(found, [[[1.0, -1.27, 0.3, 5.0]]])


def test_a_layers_inputs_are_those_that_it_multiplies(content, images):
    """Mean products with the constant 1, times the weights, are a layer's mean output."""
    rounding = Rounding(content, images)
    linear = [
        layer for layer in Graph(content).convolutions() if "relu" not in layer.output.lower()
    ]
    assert [layer.depthwise for layer in linear] == [False, True, False]
    for layer in linear:
        values = [x[layer.output] for x in computed(content, images, [layer.output])]
        expected = np.mean([x.reshape(-1, x.shape[-1]).mean(0) for x in values], 0)
        means = rounding._products[layer.output][:, -1]
        kernel = layer.kernel
        assert layer.bias is not None
        weights = kernel.reshape(-1, kernel.shape[-1]).T if layer.depthwise else kernel
        weights = np.append(weights.reshape(len(expected), -1), layer.bias[:, None], 1)
        np.testing.assert_allclose((weights * means).sum(-1), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("arithmetic", ["float", "int8"])
def test_files_are_nearer_to_the_float_network(content, images, arithmetic):
    rounding = Rounding(content, images).apply
    if arithmetic == "float":
        plain, ours = quantize_weights(content), quantize_weights(content, rounding)
    else:
        ranges = observe(content, images).ranges()
        plain, ours = quantize(content, ranges), quantize(content, ranges, rounding=rounding)
    assert len(ours) < 1.1 * len(plain)
    others = np.random.default_rng(2).integers(0, 256, (40, SIZE, SIZE, 3)).astype(np.float32)
    expected = run(content, others)
    error, before = (np.square(run(file, others) - expected).mean() for file in (ours, plain))
    assert error < (0.4 if arithmetic == "float" else 0.9) * before


def test_weights_are_in_whole_steps_in_the_file_as_they_were_rounded(content, images):
    """Whatever the quantizer does with weights must not round them once more."""
    kernels = {}

    def rounding(graph, limits):
        Rounding(content, images).apply(graph, limits)
        kernels.update({layer.kernel_name: layer.kernel for layer in graph.convolutions()})

    file = quantize_weights(content, rounding)
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file)
    interpreter.allocate_tensors()
    found = 0
    for tensor in interpreter.get_tensor_details():
        if tensor["name"] in kernels and tensor["dtype"] == np.int8:
            kernel, parameters = kernels[tensor["name"]], tensor["quantization_parameters"]
            shape = [1] * kernel.ndim
            shape[parameters["quantized_dimension"]] = -1
            steps = parameters["scales"].reshape(shape)
            values = interpreter.get_tensor(tensor["index"]) * steps
            np.testing.assert_allclose(values, kernel, atol=1e-3 * steps.min())
            found += 1
    assert found >= 4
