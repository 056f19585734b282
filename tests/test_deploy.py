"""Metadata, export, verification and conversion."""

import json
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import InputError, deploy
from keras_efficientnet.data import sources
from keras_efficientnet.deploy.convert import convert

NAMES = ("chat", "犬", "лиса")


@pytest.fixture(scope="module")
def model(small, randomize):
    return randomize(ke.EfficientNet(small, classes=3, input_shape=(64, 64, 3)))


@pytest.fixture(scope="module")
def info():
    return deploy.ModelInfo("small", NAMES, 64, 0.875)


@pytest.fixture(scope="module")
def photos():
    rng = np.random.default_rng(1)
    coarse = rng.integers(0, 256, (24, 8, 8, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((64, 64))) for image in coarse])


@pytest.fixture(scope="module")
def scores(model, photos):
    return model.predict(photos, verbose=0)


@pytest.fixture(scope="module")
def files(tmp_path_factory, model, info, photos):
    folder = tmp_path_factory.mktemp("files")
    paths = {
        "keras": folder / "model.keras",
        "saved_model": folder / "saved_model",
        **{name: folder / f"{name}.tflite" for name in deploy.QUANTIZATIONS},
    }
    deploy.save_keras(model, paths["keras"], info)
    deploy.export_saved_model(model, paths["saved_model"], info)
    for name in deploy.QUANTIZATIONS:
        deploy.export_tflite(model, paths[name], info, name, photos)
    return paths


def test_every_format_agrees_in_a_fresh_interpreter(files, photos, scores):
    labels = scores.argmax(1)
    report = deploy.verify(files, "keras", photos, labels)
    difference = report["max_abs_difference"]
    assert difference["keras"] == 0
    assert difference["saved_model"] < 1e-5
    assert difference["float32"] < 1e-4
    assert difference["float16"] < 2e-2
    assert difference["int8"] > 1e-5
    for name in ("keras", "saved_model", "float32"):
        assert report["agreement"][name] == report["test_accuracy"][name] == 1
    wrong = deploy.verify({"keras": files["keras"]}, "keras", photos, (labels + 1) % 3)
    assert wrong["test_accuracy"]["keras"] == 0


def test_sizes_follow_the_number_format(files):
    size = {name: files[name].stat().st_size for name in deploy.QUANTIZATIONS}
    assert size["float16"] < 0.7 * size["float32"]
    assert size["int8"] < size["float16"]


def test_a_saved_model_needs_no_class_of_this_package(files, photos, scores, run_python, tmp_path):
    np.save(tmp_path / "photos.npy", photos)
    np.save(tmp_path / "scores.npy", scores)
    run_python(
        """
import sys
sys.modules["keras"] = sys.modules["keras_efficientnet"] = None
import numpy as np, tensorflow as tf
loaded = tf.saved_model.load(sys.argv[1])
photos = np.load(sys.argv[2]).astype("float32")
for count in (1, 24):
    got = loaded.serve(photos[:count])["scores"].numpy()
    np.testing.assert_allclose(got, np.load(sys.argv[3])[:count], atol=1e-5)
""",
        files["saved_model"],
        tmp_path / "photos.npy",
        tmp_path / "scores.npy",
    )


def test_lite_files_have_a_static_batch_of_one_and_builtin_operators_only(files):
    from ai_edge_litert.interpreter import Interpreter

    for name in deploy.QUANTIZATIONS:
        interpreter = Interpreter(str(files[name]))  # refuses operators that are not built in
        interpreter.allocate_tensors()
        (source,), (target,) = interpreter.get_input_details(), interpreter.get_output_details()
        assert source["shape"].tolist() == source["shape_signature"].tolist() == [1, 64, 64, 3]
        expected = np.uint8 if name == "int8" else np.float32
        assert source["dtype"] == target["dtype"] == expected


def test_int8_has_no_float_tensor_left(files):
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(files["int8"]))
    types = {tensor["dtype"] for tensor in interpreter.get_tensor_details()}
    assert np.float32 not in types


def test_every_format_carries_its_description(files, info):
    for path in files.values():
        assert deploy.read_info(path) == info


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "{}",
        json.dumps({"variant": "B0", "class_names": 3, "image_size": 64, "crop_fraction": 1}),
        json.dumps({"variant": "B0", "class_names": [], "image_size": -1, "crop_fraction": 1}),
        json.dumps({"variant": "B0", "class_names": [1], "image_size": 64, "crop_fraction": 1}),
    ],
)
def test_a_damaged_description_is_refused(tmp_path, text):
    path = tmp_path / "model.tflite"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("keras_efficientnet.json", text)
    with pytest.raises(InputError, match="description"):
        deploy.read_info(path)


def digits_like(photos, labels, names):
    examples = sources.ArrayExamples(photos, labels)
    return sources.DataSet("photos", "photos", names, examples, examples, 1.0, False)


@pytest.mark.parametrize("source", ["keras", "saved_model"])
def test_conversion_of_a_file_gives_what_direct_export_gives(files, source, tmp_path, info):
    report = convert(files[source], "tflite", "float16", output=tmp_path)
    assert report["max_abs_difference"]["exported"] < 2e-2
    assert (
        report["files"]["model_float16.tflite"]
        == (tmp_path / "model_float16.tflite").stat().st_size
    )
    assert deploy.read_info(tmp_path / "model_float16.tflite") == info


def test_conversion_to_int8_calibrates_and_compares_on_data(files, photos, scores, tmp_path):
    data = digits_like(photos, scores.argmax(1), NAMES)
    report = convert(files["keras"], "tflite", "int8", data, output=tmp_path)
    assert report["test_accuracy"]["source"] > 0.5  # cropped, so not quite what was labelled
    assert set(report["agreement"]) == {"source", "exported"}
    with pytest.raises(InputError, match="--overwrite"):
        convert(files["keras"], "tflite", "int8", data, output=tmp_path)


def test_conversion_to_a_saved_model(files, tmp_path):
    report = convert(files["keras"], "savedmodel", output=tmp_path)
    assert report["max_abs_difference"]["exported"] < 1e-5


def test_what_cannot_be_converted_or_opened_is_refused(files, model, info, photos, tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"PK not really")
    (tmp_path / "broken.tflite").write_bytes(b"TFL3 not really" * 9)
    (tmp_path / "folder").mkdir()
    bad: Any = "int4"
    for call, message in (
        (lambda: convert(files["float32"]), "cannot be converted"),
        (lambda: convert(tmp_path / "none.keras"), "does not exist"),
        (lambda: convert(files["saved_model"], "savedmodel"), "SavedModel already"),
        (lambda: convert(files["keras"], quantize="int8", output=tmp_path), "--calibration"),
        (lambda: convert(tmp_path / "broken.keras"), "Cannot load model"),
        (lambda: deploy.Predictor(tmp_path / "none.keras"), "does not exist"),
        (lambda: deploy.Predictor(tmp_path / "broken.keras"), "Cannot load model"),
        (lambda: deploy.Predictor(tmp_path / "broken.tflite"), "Cannot load model"),
        (lambda: deploy.Predictor(tmp_path / "folder"), "neither a .keras file"),
        (lambda: convert(files["keras"], quantize=bad, output=tmp_path), "must be one of"),
        (lambda: deploy.export_tflite(model, tmp_path / "x", info, "int8"), "calibration images"),
        (
            lambda: deploy.export_tflite(model, tmp_path / "x", info, "int8", photos[:, ::2]),
            "do not fit",
        ),
    ):
        with pytest.raises(InputError, match=message):
            call()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "broken.keras",
        "broken.tflite",
        "folder",
    ]


def test_a_model_of_free_size_is_not_exported(small, info, tmp_path):
    free = ke.EfficientNet(small, include_top=False, pooling="avg")
    with pytest.raises(InputError, match="fixed height and width"):
        deploy.export_saved_model(free, tmp_path / "free", info)
