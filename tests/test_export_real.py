"""Whole networks through every format, and real weights on real photos. Minutes."""

import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from image_helpers import real_photos

import keras_efficientnet as ke
from keras_efficientnet import deploy
from keras_efficientnet.data.pipeline import evaluation_arrays
from keras_efficientnet.deploy.exportable import open_exportable

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "efficientnet_b0_imagenet_partial_torch_layout.npz"

slow, exhaustive = pytest.mark.slow, pytest.mark.exhaustive


@pytest.mark.parametrize(
    ("variant", "size"),
    [
        pytest.param("B0", 128, marks=slow),
        pytest.param("B4", 128, marks=slow),
        pytest.param("Lite0", 128, marks=exhaustive),
        pytest.param("V2-B0", 128, marks=exhaustive),
    ],
)
def test_every_format_gives_the_numbers_of_the_keras_model(variant, size, tell_apart, tmp_path):
    pytest.importorskip("tf2onnx")
    photos = real_photos(size, 24)
    model = ke.EfficientNet(variant, classes=10, input_shape=(size, size, 3))
    # Random weights in a network as deep as B4 magnify the last digit of float32: two calls of
    # Keras, eager and as a graph, then differ by 7e-5 of the outputs' range.
    tell_apart(model, photos, random=variant != "B4")
    scores = model.predict(photos, verbose=0)
    assert len(set(scores.argmax(1))) >= 5
    images = deploy.CalibrationSet(photos[:8], photos)
    # Coarse weights make a random network another one; int8 is judged on real ones, below.
    report = ke.export(
        model,
        tmp_path,
        deploy.FORMATS,
        deploy.QUANTIZATIONS,
        images,
        options=deploy.ExportOptions(min_agreement=0),
    )
    for file in report.files:
        share = file.max_abs_difference / np.ptp(scores)
        if file.number_format == "float32":
            assert share < 1e-4, file.name
            assert file.agreement == 1, file.name
        # The initial weights of B4 give features that hardly differ.
        if file.number_format == "float16" and variant != "B4":
            assert share < 0.05
            assert file.agreement
            assert file.agreement >= 0.9
        if file.format == "tflite":
            assert file.operators["CONV_2D"] > 10, file.name


@pytest.fixture(scope="module")
def flowers():
    """B0 with ImageNet weights up to block 7a and a linear head, its photos and their classes."""
    if not WEIGHTS.exists():
        pytest.skip("needs the files in ../shared")
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    data = ke.data.load(f"folder:{SHARED / 'data' / 'flowers'}")
    base = ke.EfficientNetB0(weights=None)
    ke.load_weights(base, WEIGHTS, strict=False)
    pooled = keras.layers.GlobalAveragePooling2D()(base.get_layer("block7a_se").output)
    features = keras.Model(base.input, pooled)
    images, labels = evaluation_arrays(data.train, 224, data.crop_fraction, 500)
    scaler = StandardScaler()
    found = scaler.fit_transform(features.predict(images, verbose=0))
    probe = LogisticRegression(C=0.01, max_iter=1000).fit(found, labels)
    head = keras.layers.Dense(5, activation="softmax")
    model = keras.Model(base.input, head(pooled), name="flowers")
    kernel = probe.coef_ / scaler.scale_
    head.set_weights([kernel.T, probe.intercept_ - kernel @ scaler.mean_])
    return open_exportable(model, {"class_names": data.class_names}), data


@slow
def test_mediapipe_classifies_photos_as_the_keras_model_does(flowers, tmp_path):
    mediapipe = pytest.importorskip("mediapipe", exc_type=ImportError)
    from mediapipe.tasks.python import BaseOptions, vision

    network, data = flowers
    report = ke.export(network, tmp_path, "tflite", ("float32", "float16", "int8"), data)
    assert report.source_accuracy
    assert report.source_accuracy > 0.8
    for number_format, least in (("float32", 1), ("float16", 0.99), ("int8", 0.97)):
        assert (report.file(f"model_{number_format}.tflite").agreement or 0) >= least
    photos, _ = evaluation_arrays(data.test, 224, data.crop_fraction, 200)
    expected = network.scores(photos).argmax(1)
    for name in ("float32", "int8"):
        path = tmp_path / f"model_{name}.tflite"
        own = ke.Predictor(path).scores(photos)
        options = vision.ImageClassifierOptions(BaseOptions(model_asset_path=str(path)))
        best, same = [], []
        with vision.ImageClassifier.create_from_options(options) as classifier:
            for photo, scores in zip(photos, own, strict=True):
                image = mediapipe.Image(image_format=mediapipe.ImageFormat.SRGB, data=photo)
                (result,) = classifier.classify(image).classifications
                best.append(data.class_names.index(result.categories[0].category_name))
                same.append(scores[best[-1]] == scores.max())
        assert np.mean(same) == 1 if name == "int8" else np.mean(same) >= 0.99
        agreement = np.mean(best == expected)
        print(f"MediaPipe agrees with Keras on {agreement:.1%} of the photos with the {name} file")
        assert agreement == 1 if name == "float32" else agreement >= 0.75


@slow
def test_files_that_are_served_are_classified_as_the_predictor_does(flowers, tmp_path):
    import tensorflow as tf

    network, data = flowers
    deploy.export_saved_model(network, tmp_path / "served")
    serve = tf.saved_model.load(str(tmp_path / "served")).signatures["serve_encoded"]
    predictor = ke.Predictor(tmp_path / "served")
    paths = data.test.paths
    served = [
        serve(encoded=tf.constant([path.read_bytes() for path in paths[start : start + 50]]))
        for start in range(0, len(paths), 50)
    ]
    labels = np.concatenate([answer["labels"].numpy() for answer in served])
    scores = np.concatenate([answer["scores"].numpy() for answer in served])
    answers = predictor.classify(paths)
    same = [row[0].decode() == answer.label for row, answer in zip(labels, answers, strict=True)]
    assert np.mean(same) >= 0.99
    np.testing.assert_allclose(scores[:, 0], [answer.score for answer in answers], atol=0.05)


@slow
def test_the_page_on_serving_shows_what_the_tool_shows(tmp_path):
    page = Path(__file__).parents[1] / "docs" / "guides" / "servers.md"
    names = ["daisy", "dandelion", "roses", "sunflowers", "tulips"]
    model = ke.EfficientNetB0(weights=None, classes=5)
    deploy.export_saved_model(model, tmp_path / "served", {"class_names": names})
    shown = re.findall(
        r"^\$ saved_model_cli show --dir served/1 --tag_set serve --signature_def (\w+)\n(.*?)"
        r"(?=^\$|^```)",
        page.read_text(encoding="utf-8"),
        re.MULTILINE | re.DOTALL,
    )
    assert [name for name, _ in shown] == ["serving_default", "serve_uint8", "serve_encoded"]
    tool = Path(sys.executable).with_name("saved_model_cli")
    for name, text in shown:
        options = ["--dir", tmp_path / "served", "--tag_set", "serve", "--signature_def", name]
        result = subprocess.run(
            [tool, "show", *options], capture_output=True, text=True, check=True
        )
        assert result.stdout.strip() == text.strip()


ON_JAX = """
import sys
import keras
import numpy as np
import keras_efficientnet as ke
assert keras.backend.backend() == "jax"
np.save(sys.argv[3], ke.Predictor(sys.argv[1]).scores(np.load(sys.argv[2])))
"""


@pytest.mark.jax
@slow
def test_every_way_to_run_the_network_names_the_same_class(flowers, tmp_path, run_python):
    """Keras on TensorFlow and on JAX, SavedModel, LiteRT and ONNX, on real photos."""
    for module in ("jax", "tf2onnx", "onnxruntime"):
        pytest.importorskip(module)
    network, data = flowers
    photos, _ = evaluation_arrays(data.test, 224, data.crop_fraction, 60)
    expected = network.scores(photos)
    images = deploy.CalibrationSet(photos[:8], photos[:8])
    ke.export(network, tmp_path, deploy.FORMATS, "float32", images)
    np.save(tmp_path / "photos.npy", photos)
    arguments = [tmp_path / name for name in ("model.keras", "photos.npy", "scores.npy")]
    run_python(ON_JAX, *arguments, KERAS_BACKEND="jax")
    found = {
        name: ke.Predictor(tmp_path / name).scores(photos)
        for name in ("model.keras", "saved_model", "model_float32.tflite", "model.onnx")
    }
    found["JAX"] = np.load(tmp_path / "scores.npy")
    for name, scores in found.items():
        np.testing.assert_array_equal(scores.argmax(1), expected.argmax(1), err_msg=name)
        np.testing.assert_allclose(scores, expected, atol=1e-3, err_msg=name)
