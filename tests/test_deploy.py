"""Metadata, export, the runtime, verification, the predictor and conversion."""

import dataclasses
import json
import zipfile
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import InputError, deploy
from keras_efficientnet.data import sources
from keras_efficientnet.deploy import runtime
from keras_efficientnet.deploy.convert import convert
from keras_efficientnet.deploy.evaluation import evaluate

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


def test_a_model_file_without_a_description_still_works(tmp_path, model, photos, scores):
    model.save(tmp_path / "plain.keras")
    predictor = deploy.Predictor(tmp_path / "plain.keras")
    assert predictor.info.class_names == ()
    assert predictor.info.image_size == 64
    label, score = predictor.top(predictor.scores(photos[:1])[0], 1)[0]
    assert label == f"class {scores[0].argmax()}"
    assert score == pytest.approx(scores[0].max(), abs=1e-5)


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


def test_predictor_reads_paths_bytes_images_and_arrays_alike(files, photos, tmp_path):
    predictor = deploy.Predictor(files["float32"])
    Image.fromarray(photos[0]).save(tmp_path / "photo.png")
    answers = [
        predictor.classify(source, 3)
        for source in (
            tmp_path / "photo.png",
            (tmp_path / "photo.png").read_bytes(),
            Image.fromarray(photos[0]),
            photos[0],
        )
    ]
    assert all(answer == answers[0] for answer in answers)
    labels, values = zip(*answers[0], strict=True)
    assert sorted(labels) == sorted(NAMES)
    assert list(values) == sorted(values, reverse=True)
    assert sum(values) == pytest.approx(1, abs=1e-4)


def test_quantize_and_dequantize_follow_the_affine_rule():
    tensor = {"quantization": (0.5, 10), "dtype": np.uint8}
    values = np.array([-5.0, -100.0, 0.0, 1.3, 1000.0])
    assert runtime.quantize(values, tensor).tolist() == [0, 0, 10, 13, 255]
    assert runtime.dequantize(np.array([0, 10, 13], np.uint8), tensor).tolist() == [-5, 0, 1.5]


def digits_like(photos, labels, names):
    examples = sources.ArrayExamples(photos, labels)
    return sources.DataSet("photos", "photos", names, examples, examples, 1.0, False)


def test_evaluation_matches_classes_by_name(tmp_path, model, info, photos, scores):
    deploy.save_keras(model, tmp_path / "m.keras", dataclasses.replace(info, crop_fraction=1.0))
    predictor = deploy.Predictor(tmp_path / "m.keras")
    best = scores.argmax(1)
    to_data = {0: 2, 1: 0, 2: 1}  # the data lists the same names in another order
    data = digits_like(photos, np.array([to_data[label] for label in best]), ("犬", "лиса", "chat"))
    result = evaluate(predictor, data)
    assert result["images"] == 24
    assert result["accuracy"] == 1
    counts = {name: int((best == index).sum()) for index, name in enumerate(NAMES)}
    assert {name: row["images"] for name, row in result["classes"].items()} == {
        name: count for name, count in counts.items() if count
    }
    with pytest.raises(InputError, match="'wolf' is not among the model's: chat"):
        evaluate(predictor, digits_like(photos, best, ("chat", "wolf", "лиса")))
    model.save(tmp_path / "nameless.keras")
    nameless = deploy.Predictor(tmp_path / "nameless.keras")
    with pytest.raises(InputError, match="tells 3 classes apart and the data has 4"):
        evaluate(nameless, digits_like(photos, best, ("a", "b", "c", "d")))


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


def test_a_keras_file_with_code_in_it_is_refused(tmp_path):
    inputs = keras.Input((64, 64, 3))
    outputs = keras.layers.Lambda(lambda x: x)(inputs)
    keras.Model(inputs, outputs).save(tmp_path / "code.keras")
    with pytest.raises(InputError, match="Cannot load model"):
        deploy.Predictor(tmp_path / "code.keras")
