"""int8 files: what equalization leaves alone, what the search finds, and what it refuses."""

import dataclasses

import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet.deploy import ExportOptions, GateError, int8_search
from keras_efficientnet.deploy.int8_quantizer import plain_int8, quantize_weights, run
from keras_efficientnet.deploy.int8_search import SearchImages, quantize_int8
from keras_efficientnet.deploy.tflite_graph import MAX_SCALE, Graph

SIZE, CLASSES = 48, 40


def float_content(model, folder):
    description = ke.ModelDescription("small", (), model.input_shape[1], 0.875)
    ke.deploy.export_tflite(model, folder / "float.tflite", description)
    return (folder / "float.tflite").read_bytes()


def pictures(count, seed, size=SIZE):
    """Images with large areas, so that a network has something to tell apart."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 4, 4, 3)).astype(np.float32)
    images = np.repeat(np.repeat(coarse, size // 4, 1), size // 4, 2)
    return np.clip(images + rng.normal(0, 8, images.shape), 0, 255).astype(np.float32)


def classifier(small, randomize):
    """A network of random weights of which every class is the best of some pictures."""
    model = randomize(
        ke.EfficientNet(small, classes=CLASSES, input_shape=(SIZE, SIZE, 3)), pictures(8, 9)
    )
    # By more than a step of the scores.
    head = model.get_layer("predictions")
    head.kernel.assign(np.asarray(head.kernel) * 8)
    scores = model.predict(pictures(64, 8), verbose=0)
    head.bias.assign(head.bias - np.log(scores + 1e-9).mean(0))
    return model


@pytest.fixture(scope="module")
def model(small, randomize):
    return classifier(small, randomize)


@pytest.fixture(scope="module")
def content(model, tmp_path_factory):
    return float_content(model, tmp_path_factory.mktemp("float"))


@pytest.fixture(scope="module")
def lopsided(model, tmp_path_factory):
    """The same network, but with channels in block 2a that differ by a factor of up to 60.

    The depthwise convolution behind makes up for it as far as a swish allows.
    """
    changed = keras.models.clone_model(model)
    changed.set_weights(model.get_weights())
    norm, depthwise = changed.get_layer("block2a_expand_bn"), changed.get_layer("block2a_dwconv")
    factor = np.geomspace(1, 60, norm.gamma.shape[0]).astype(np.float32)
    norm.gamma.assign(norm.gamma * factor)
    norm.beta.assign(norm.beta * factor)
    kernel = depthwise.kernel
    kernel.assign(np.asarray(kernel) / factor[None, None, :, None])
    return float_content(changed, tmp_path_factory.mktemp("lopsided"))


def doubtful(content, count=48):
    """Pictures whose two best classes score nearly the same."""
    images = pictures(400, 3)
    scores = np.sort(run(content, images), 1)
    return images[np.argsort(np.log(scores[:, -1] / scores[:, -2]))[:count]]


def scales_of(graph, seed=0):
    rng = np.random.default_rng(seed)
    shapes = graph.shapes()
    return {
        name: np.exp2(rng.integers(0, 7, shapes[name][-1])).astype(np.float32)
        for name in (swish.tensors[0] for swish in graph.equalizable())
    }


def test_equalizing_does_not_change_what_the_network_computes(model, content):
    graph = Graph(content)
    scales = scales_of(graph)
    # All but the stem's, which the first block adds to what it gives.
    swishes = [layer for layer in model.layers if isinstance(layer, ke.layers.Swish)]
    assert len(scales) == len(swishes) - 1
    graph.equalize(scales)
    images = pictures(4, 1)
    expected = run(content, images)
    found = run(graph.content(), images)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert len(graph.content()) < 1.1 * len(content)


def test_constants_that_operators_share_are_kept_apart(small, tmp_path):
    """A fresh network's biases are all zero, and the converter keeps equal ones once."""
    fresh = float_content(
        ke.EfficientNet(small, classes=CLASSES, input_shape=(SIZE, SIZE, 3)), tmp_path
    )
    graph = Graph(fresh)
    graph.equalize(scales_of(graph))
    images = pictures(2, 1)
    np.testing.assert_allclose(run(graph.content(), images), run(fresh, images), atol=1e-6)


def test_inverse_scales_are_steps_of_eight_bits():
    steps = 1 / np.exp2(np.arange(0, np.log2(MAX_SCALE) + 1)) * MAX_SCALE
    np.testing.assert_array_equal(steps, np.round(steps))
    assert steps.max() <= 255


def test_the_whole_network_is_quantized_with_uint8_at_both_ends(content):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=plain_int8(content, pictures(16, 2)))
    interpreter.allocate_tensors()
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["dtype"] == target["dtype"] == np.uint8
    # A step of the input is one of a pixel, and a score has steps of 1/256.
    assert source["quantization"] == (1.0, 0)
    assert target["quantization"] == (1 / 256, 0)
    floats = [t for t in interpreter.get_tensor_details() if t["dtype"] == np.float32]
    assert not [t["name"] for t in floats if len(t["shape"])]


def test_channels_that_are_all_but_dead_keep_their_bias(model, tmp_path):
    """With steps as fine as such a kernel's, the bias would overflow its 32 bits."""
    changed = keras.models.clone_model(model)
    changed.set_weights(model.get_weights())
    conv = changed.get_layer("block1a_project_conv")
    kernel = np.asarray(conv.kernel).copy()
    kernel[..., 0] = 1e-15
    conv.kernel.assign(kernel)
    changed.get_layer("block1a_project_bn").beta.assign(np.full(kernel.shape[-1], 3.0, np.float32))
    content = float_content(changed, tmp_path)
    images = pictures(16, 2)
    expected = run(content, images)
    found = run(plain_int8(content, images), images)
    assert np.abs(found - expected).mean() < 0.01


def test_what_holds_is_left_alone(content):
    ranges, check = pictures(24, 2), pictures(40, 3)
    images = SearchImages(ranges, ranges, check)
    file, report = quantize_int8(content, images, min_agreement=0)
    assert not report.equalized
    assert not report.float_parts
    assert report.images == 40
    expected, found = run(content, check), run(file, check)
    assert report.agreement == np.mean(expected.argmax(1) == found.argmax(1))
    assert 0 < report.size < 0.6
    assert 5 < report.signal_to_noise < 60


def test_lopsided_channels_are_found_and_equalized(lopsided):
    images, check = pictures(24, 2), doubtful(lopsided)
    plain = run(plain_int8(lopsided, images), check)
    expected = run(lopsided, check)
    before = np.mean(expected.argmax(1) == plain.argmax(1))
    assert before < 0.9
    gate = before + 0.05
    file, report = quantize_int8(lopsided, SearchImages(images, images, check), gate)
    assert (report.agreement or 0) >= gate
    gains = {swish.layer: swish.gain for swish in report.equalized}
    assert gains["block2a_expand_conv"] == max(gains.values()) > 3
    found = run(file, check)
    assert np.abs(found - expected).mean() < 0.75 * np.abs(plain - expected).mean()


def test_parts_stay_in_float_where_nothing_else_helps(lopsided, monkeypatch):
    monkeypatch.setattr(int8_search, "MIN_GAIN", np.inf)  # equalize nothing
    content = lopsided
    ranges = pictures(24, 2)
    images = SearchImages(ranges, ranges, doubtful(lopsided))
    _, plain = quantize_int8(content, images, min_agreement=0)
    assert plain.agreement is not None
    gate = plain.agreement + 0.05
    file, report = quantize_int8(content, images, min_agreement=gate)
    assert (report.agreement or 0) >= gate
    assert report.float_parts
    assert report.float_parts[0].gain == max(part.gain for part in report.float_parts)
    assert report.size > plain.size
    names = set(Graph(content).parts())
    assert {part.part for part in report.float_parts} <= names
    shapes, floats = Graph(file).shapes(), report.float_parts[0].part
    kept = [name for name in Graph(content).parts()[floats] if name in shapes]
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=file)
    types = {t["name"]: t["dtype"] for t in interpreter.get_tensor_details()}
    assert {types[name] for name in kept} == {np.float32}


def test_a_gate_that_no_file_meets_is_said_so(model, tmp_path):
    """Scores that differ by less than a step of 8 bits are all the same in the file."""
    changed = keras.models.clone_model(model)
    changed.set_weights(model.get_weights())
    head = changed.get_layer("predictions")
    head.kernel.assign(np.asarray(head.kernel) * 1e-4)
    head.bias.assign(np.zeros(CLASSES, np.float32))
    content = float_content(changed, tmp_path)
    images = SearchImages(pictures(8, 2), pictures(8, 2), pictures(24, 3))
    with pytest.raises(GateError, match=r"97\.0% of 24 calib.*--min-agreement") as caught:
        quantize_int8(content, images)
    assert caught.value.report
    assert caught.value.report.agreement is not None
    assert caught.value.report.agreement < 0.97


def test_names_stay_unique_where_operators_share_a_constant(small, tmp_path):
    """A fresh network's biases are all zero, and ai-edge-quantizer wants every name once."""
    fresh = float_content(
        ke.EfficientNet(small, classes=CLASSES, input_shape=(SIZE, SIZE, 3)), tmp_path
    )
    graph = Graph(fresh)
    graph.equalize(scales_of(graph))
    names = list(Graph(graph.content()).shapes())
    assert len(names) == len(set(names)) == len(Graph(graph.content())._graph.tensors)
    quantize_weights(graph.content())


def test_options_out_of_range_are_refused():
    with pytest.raises(ke.InputError, match=r"min_agreement=1\.5 must be from 0 to 1"):
        ExportOptions(min_agreement=1.5)
    with pytest.raises(ke.InputError, match="qat_epochs=-1 must be at least 0"):
        ExportOptions(qat_epochs=-1)


def test_networks_without_swish_are_quantized(randomize, tmp_path):
    lite = ke.EfficientNet(
        dataclasses.replace(ke.spec.VARIANTS["Lite0"], width=0.25, depth=0.3),
        classes=CLASSES,
        input_shape=(SIZE, SIZE, 3),
    )
    content = float_content(randomize(lite, pictures(8, 9)), tmp_path)
    assert not Graph(content).equalizable()
    images = SearchImages(pictures(8, 2), pictures(8, 2), pictures(8, 3))
    _, report = quantize_int8(content, images, min_agreement=0)
    assert report.signal_to_noise > 5


def test_features_are_quantized_without_a_gate(small, randomize, tmp_path):
    features = randomize(
        ke.EfficientNet(small, include_top=False, input_shape=(SIZE, SIZE, 3)), pictures(8, 9)
    )
    content = float_content(features, tmp_path)
    _, report = quantize_int8(content, SearchImages(*(pictures(8, seed) for seed in (2, 2, 3))))
    assert report.agreement is None
    assert report.signal_to_noise > 5
