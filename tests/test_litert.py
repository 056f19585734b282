"""LiteRT files in every number format: shapes, operators, numbers."""

import collections

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import InputError, deploy
from keras_efficientnet.deploy import runtime
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.deploy.litert import count_operators

NAMES = ("chat", "犬", "лиса")
SIZE = 64


def coarse(count, size=SIZE, channels=3):
    """Images with structure, so that resizing networks tell them apart."""
    noise = np.random.default_rng(1).integers(0, 256, (count, 8, 8, channels)).astype(np.uint8)
    return np.stack(
        [
            np.stack(
                [np.asarray(Image.fromarray(plane).resize((size, size))) for plane in image], -1
            )
            for image in noise.transpose(0, 3, 1, 2)
        ]
    )


@pytest.fixture(scope="module")
def photos():
    return coarse(24)


@pytest.fixture(scope="module")
def model(small, tell_apart, photos):
    return tell_apart(ke.EfficientNet(small, classes=3, input_shape=(SIZE, SIZE, 3)), photos)


@pytest.fixture(scope="module")
def network(model):
    return open_exportable(model, {"class_names": NAMES})


@pytest.fixture(scope="module")
def files(tmp_path_factory, network, photos):
    folder = tmp_path_factory.mktemp("lite")
    paths = {name: folder / f"{name}.tflite" for name in deploy.QUANTIZATIONS}
    for name, path in paths.items():
        assert deploy.export_tflite(network, path, quantize=name, calibration=photos) is None
    return paths


def test_numbers_are_those_of_the_model_as_far_as_the_format_goes(files, model, photos):
    expected = model.predict(photos, verbose=0)
    assert set(expected.argmax(1)) == {0, 1, 2}
    largest = {}
    for name, path in files.items():
        scores = runtime.open_model(path).run(photos)
        largest[name] = np.abs(scores - expected).max() / np.ptp(expected)
    assert largest["float32"] < 1e-4
    assert 1e-6 < largest["float16"] < 2e-2
    assert 1e-5 < largest["dynamic"] < 0.3
    assert largest["int16x8"] < largest["int8"] < 0.5


def test_sizes_follow_the_number_format(files):
    size = {name: path.stat().st_size for name, path in files.items()}
    assert size["float16"] < 0.7 * size["float32"]
    assert size["int8"] < size["int16x8"] < size["float16"]
    assert size["dynamic"] < size["float16"]


def test_files_have_a_static_batch_of_one_and_builtin_operators_only(files):
    for name, path in files.items():
        interpreter = Interpreter(str(path))  # refuses operators that are not built in
        interpreter.allocate_tensors()
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert source["shape"].tolist() == source["shape_signature"].tolist() == [1, SIZE, SIZE, 3]
        assert target["shape_signature"].tolist() == [1, 3]
        expected = np.uint8 if name == "int8" else np.float32
        assert source["dtype"] == target["dtype"] == expected


def test_operators_are_counted(files, model):
    for path in files.values():
        counted = count_operators(path)
        plain = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        interpreter = Interpreter(str(path), experimental_op_resolver_type=plain)
        found = [operator["op_name"] for operator in interpreter._get_ops_details()]
        assert counted == collections.Counter(found)
        assert list(counted.values()) == sorted(counted.values(), reverse=True)
    depthwise = [layer for layer in model.layers if isinstance(layer, keras.layers.DepthwiseConv2D)]
    assert count_operators(files["float32"])["DEPTHWISE_CONV_2D"] == len(depthwise)


def test_an_int8_file_is_8_bit_throughout_and_takes_bytes_as_they_are(files):
    interpreter = Interpreter(str(files["int8"]))
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert types <= {np.int8, np.uint8, np.int32}
    (source,) = interpreter.get_input_details()
    assert source["quantization"] == (1.0, 0)


def test_a_step_of_the_input_is_a_pixel_whatever_calibrates(network, photos, tmp_path):
    dull = np.clip(photos[:2], 100, 130)
    before = dull.copy()
    deploy.export_tflite(network, tmp_path / "dull", quantize="int8", calibration=dull)
    (source,) = Interpreter(str(tmp_path / "dull")).get_input_details()
    assert source["quantization"] == (1.0, 0)
    np.testing.assert_array_equal(dull, before)


@pytest.mark.parametrize("quantize", ["float32", "int8"])
def test_a_dynamic_batch_takes_any_number_of_images(network, photos, tmp_path, quantize):
    path = tmp_path / "any.tflite"
    options = deploy.ExportOptions(dynamic_batch=True)
    deploy.export_tflite(network, path, None, quantize, photos, options)
    interpreter = Interpreter(str(path))
    (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert source["shape_signature"].tolist() == [-1, SIZE, SIZE, 3]
    interpreter.resize_tensor_input(source["index"], (5, SIZE, SIZE, 3))
    interpreter.allocate_tensors()
    interpreter.set_tensor(source["index"], photos[:5].astype(source["dtype"]))
    interpreter.invoke()
    together = runtime.dequantize(interpreter.get_tensor(target["index"]), target)
    alone = runtime.open_model(path).run(photos[:5])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_one_model_gives_one_file_whose_weights_are_aligned(files, network, tmp_path):
    path = files["float32"]
    deploy.export_tflite(network, tmp_path / "again")
    content = path.read_bytes()
    assert (tmp_path / "again").read_bytes() == content
    model = schema.Model.GetRootAs(content)
    starts = [
        buffer._tab.Vector(buffer._tab.Offset(4))
        for buffer in map(model.Buffers, range(model.BuffersLength()))
        if buffer.DataLength()
    ]
    assert len(starts) > 50
    assert {start % 16 for start in starts} == {0}


def test_features_and_other_channels(small, randomize, tmp_path):
    images = coarse(4, 32, channels=1)
    model = ke.EfficientNet(small, include_top=False, input_shape=(32, 32, 1))
    network = open_exportable(randomize(model, images))
    expected = model.predict(images, verbose=0)
    for quantize, tolerance in (("float32", 1e-4), ("int8", 0.2)):
        path = tmp_path / f"{quantize}.tflite"
        deploy.export_tflite(network, path, quantize=quantize, calibration=images)
        features = runtime.open_model(path).run(images)
        assert features.shape == expected.shape == (4, 1, 1, model.output_shape[-1])
        assert np.abs(features - expected).max() < tolerance * np.ptp(expected)


def test_preprocessing_outside_is_done_by_the_predictor(small, tell_apart, tmp_path):
    images = coarse(12, 32)
    options = {"classes": 3, "input_shape": (32, 32, 3)}
    inside = tell_apart(ke.EfficientNet(small, **options), images)
    outside = ke.EfficientNet(small, include_preprocessing=False, **options, name="B0")
    outside.set_weights(inside.get_weights())
    expected = inside.predict(images, verbose=0)
    assert np.abs(outside.predict(images, verbose=0) - expected).max() > 0.4
    network = open_exportable(outside)
    for quantize, tolerance in (("float32", 1e-4), ("int8", 0.4)):
        path = tmp_path / f"{quantize}.tflite"
        deploy.export_tflite(network, path, quantize=quantize, calibration=images)
        assert np.abs(ke.Predictor(path).scores(images) - expected).max() < tolerance


def test_what_cannot_be_converted_is_one_sentence(network, photos, tmp_path):
    image = keras.Input((32, 32, 3))
    odd = keras.layers.Lambda(lambda x: keras.ops.erfinv(x / 300)[:, 0, 0])(image)
    for model, options, message in (
        (network, {"quantize": "int4"}, "quantize='int4' must be one of float32, float16"),
        (network, {"quantize": "int8"}, "int8 needs calibration images"),
        (network, {"quantize": "int16x8"}, "int16x8 needs calibration images"),
        (network, {"quantize": "int8", "calibration": photos[:0]}, "needs calibration images"),
        (network, {"quantize": "int8", "calibration": photos[:, ::2]}, "do not fit a model"),
        (keras.Model(image, odd), {}, "no built-in operator for Erfinv, which the model uses"),
    ):
        with pytest.raises(InputError, match=message):
            deploy.export_tflite(model, tmp_path / "x.tflite", **options)
    assert list(tmp_path.iterdir()) == []
