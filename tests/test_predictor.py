"""The predictor on every format, from every kind of source, and from many threads."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import InputError, deploy
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.deploy.runtime import BATCH_SIZE
from keras_efficientnet.deploy.saved_model import prepare_encoded, save_keras
from keras_efficientnet.description import read_description

NAMES = ("chat", "犬", "лиса")


pytest_plugins = "photo_helpers"


@pytest.fixture(scope="module")
def lite(model_files):
    return ke.Predictor(model_files["float32"])


@pytest.mark.parametrize(
    ("name", "tolerance"), [("keras", 1e-5), ("saved_model", 1e-5), ("float32", 1e-4)]
)
def test_every_format_gives_the_scores_of_the_keras_model(
    model_files, photos, expected, name, tolerance
):
    predictor = ke.Predictor(model_files[name])
    for answers in (predictor.classify(photos, 3), [predictor.classify(p, 3) for p in photos]):
        for answer, scores in zip(answers, expected, strict=True):
            order = np.argsort(-scores)
            assert answer.labels == tuple(NAMES[index] for index in order)
            np.testing.assert_allclose(answer.scores, scores[order], atol=tolerance)


def test_an_int8_file_gives_scores_near_those_of_the_model(model_files, photos, expected):
    answers = ke.Predictor(model_files["int8"]).classify(photos, 3)
    for answer, scores in zip(answers, expected, strict=True):
        by_name = dict(zip(NAMES, scores, strict=True))
        assert all(abs(score - by_name[label]) < 0.25 for label, score in answer)
        assert sum(answer.scores) == pytest.approx(1, abs=0.02)


def test_a_path_bytes_an_image_and_an_array_are_read_alike(lite, photos, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photos[0]).save(path)
    kinds = [path, str(path), path.read_bytes(), Image.open(path), photos[0]]
    kinds += [photos[0].astype(np.float32)]
    answers = [lite.classify(kind) for kind in kinds]
    # Two interpreters with different numbers of threads may round differently.
    for answer in [*answers, *lite.classify(kinds), *lite.classify(photos[:1])]:
        assert answer.labels == answers[0].labels
        np.testing.assert_allclose(answer.scores, answers[0].scores, atol=1e-6)
    assert lite.classify([]) == []


def test_a_prediction_holds_the_best_classes_first(lite):
    prediction = lite.top(np.array([0.25, 0.5, 0.25]), 2)
    assert prediction == deploy.Prediction(("犬", "chat"), (0.5, 0.25))
    assert (prediction.label, prediction.score, len(prediction)) == ("犬", 0.5, 2)
    assert list(prediction) == [("犬", 0.5), ("chat", 0.25)]
    assert len(lite.top(np.array([0.25, 0.5, 0.25]), 9)) == 3


@pytest.mark.parametrize("name", ["keras", "saved_model", "float32", "int8"])
def test_eight_threads_get_the_answers_of_one(model_files, photos, name):
    predictor = ke.Predictor(model_files[name], threads=2)
    alone = [predictor.classify(photo, 3) for photo in photos]

    def work(seed):
        rng = np.random.default_rng(seed)
        wrong = 0
        for index in rng.permutation(len(photos)):
            group = [index] if rng.random() < 0.7 else [index, 0, 1]
            answers = (
                predictor.classify([photos[i] for i in group], 3)
                if len(group) > 1
                else [predictor.classify(photos[index], 3)]
            )
            for i, answer in zip(group, answers, strict=True):
                same = np.allclose(answer.scores, alone[i].scores, atol=1e-5)
                wrong += not (same and answer.labels == alone[i].labels)
        return wrong

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(work, range(8))) == [0] * 8


def test_a_stream_keeps_order_and_goes_on_after_bad_images(lite, photos, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    given = [photos[0], tmp_path / "bad.jpg", photos[1], tmp_path / "none.jpg", photos[2]]
    answers = list(lite.stream(iter(given), 1))
    assert [source is item for (source, _), item in zip(answers, given, strict=True)] == [True] * 5
    found = [answer for _, answer in answers]
    assert [isinstance(answer, InputError) for answer in found] == [False, True, False, True, False]
    for index, answer in ((0, found[0]), (1, found[2]), (2, found[4])):
        assert answer.label == lite.classify(photos[index]).label
    assert "bad.jpg is not an image" in str(found[1])
    ((_, alone),) = lite.stream([tmp_path / "none.jpg"])  # a group without any image
    assert "none.jpg does not exist" in str(alone)


def test_a_stream_reads_a_bounded_number_of_images_ahead(lite, photos):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield photos[taken % len(photos)]

    stream = lite.stream(endless())
    for _ in range(BATCH_SIZE + 1):
        next(stream)
    assert taken == 2 * BATCH_SIZE
    stream.close()


def test_bad_input_is_one_sentence(lite, photos, tmp_path):
    for call, message in (
        (lambda: lite.classify(tmp_path / "none.jpg"), "none.jpg does not exist"),
        (lambda: lite.classify(b""), "not an image"),
        (lambda: lite.classify(7), "given as int cannot be read"),
        (lambda: lite.classify([photos[0], "none.jpg"]), "Image 1 of 2: none.jpg does not exist"),
        (lambda: lite.classify(np.zeros((4, 4, 5))), r"shape \(4, 4, 5\) cannot be used"),
        (lambda: lite.classify(np.full((4, 4, 3), -1.0)), "between 0 and 255"),
        (lambda: lite.classify(photos / 255), "Image 0 of 24: .* multiply them by 255"),
        (lambda: lite.classify(photos[0] > 127), "multiply them by 255"),
        (lambda: lite.scores(np.full((1, 64, 64, 3), 0.5)), "multiply them by 255"),
        (lambda: lite.classify(photos[0], 0), "count=0 must be at least 1"),
        (lambda: lite.scores(photos), r"\(24, 72, 96, 3\) cannot be used"),
        (lambda: lite.scores(np.zeros((0, 64, 64, 3))), "at least one"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_models_that_are_no_classifiers_are_refused(small, model_files, tmp_path):
    (tmp_path / "broken.keras").write_bytes(b"PK not really")
    (tmp_path / "broken.tflite").write_bytes(b"TFL3 not really" * 9)
    (tmp_path / "folder").mkdir()
    inputs = keras.Input((64, 64, 3))
    code = keras.Model(inputs, keras.layers.Lambda(lambda x: x)(inputs))
    code.save(tmp_path / "code.keras")
    ke.EfficientNet(small, include_top=False).save(tmp_path / "features.keras")
    grey = ke.EfficientNet(small, input_shape=(64, 64, 1), include_preprocessing=False)
    grey.save(tmp_path / "grey.keras")
    two = keras.Model(inputs, [keras.layers.Flatten()(inputs)] * 2)
    description = read_description(model_files["keras"])
    two_lite = tmp_path / "two.tflite"
    two_lite.write_bytes(tf.lite.TFLiteConverter.from_keras_model(two).convert())
    other = tmp_path / "other.keras"
    shutil.copy(model_files["float32"], tmp_path / "other.tflite")
    deploy.save_keras(
        ke.EfficientNet(small, classes=3, input_shape=(32, 32, 3)), other, description
    )
    for name, message in (
        ("none.keras", "does not exist"),
        ("broken.keras", "Cannot load model"),
        ("broken.tflite", "Cannot load model"),
        ("folder", "neither a .keras nor .h5 file"),
        ("code.keras", "Cannot load model"),
        ("features.keras", "not one score for each class"),
        ("grey.keras", "not RGB images"),
        ("two.tflite", "has 2 outputs"),
        ("other.keras", "says otherwise of itself"),
    ):
        with pytest.raises(InputError, match=message):
            ke.Predictor(tmp_path / name)
    with pytest.raises(InputError, match="threads=0 must be at least 1"):
        ke.Predictor(model_files["float32"], threads=0)


def test_a_model_file_without_a_description_still_works(model, photos, expected, tmp_path):
    model.save(tmp_path / "plain.keras")
    predictor = ke.Predictor(tmp_path / "plain.keras")
    assert (predictor.description.class_names, predictor.description.image_size) == ((), 64)
    label, score = next(iter(predictor.classify(photos[0])))
    assert label == f"class {expected[0].argmax()}"
    assert score == pytest.approx(expected[0].max(), abs=1e-5)


def test_a_lite_file_needs_neither_tensorflow_nor_keras(run_python, model_files):
    run_python(
        """
import sys
import numpy as np
import keras_efficientnet as ke
predictor = ke.Predictor(sys.argv[1])
assert len(predictor.classify(np.zeros((80, 64, 3), np.uint8))) == 3
assert not {"keras", "tensorflow"} & set(sys.modules)
""",
        model_files["float32"],
    )


@pytest.mark.parametrize("name", ["model.keras", pytest.param("model", marks=pytest.mark.slow)])
def test_a_file_of_any_size_gets_its_variants_and_says_so(name, tmp_path):
    """A file of another package; at 224 px Lite2 is a point and more less accurate."""
    model = ke.EfficientNetLite2(weights=None, input_shape=(None, None, 3), classes=2)
    path = tmp_path / name
    model.save(path) if path.suffix else model.export(path, verbose=False)
    with pytest.warns(UserWarning, match="260 px are used, those of EfficientNet-Lite2"):
        predictor = ke.Predictor(path)
    assert predictor.description.image_size == 260
    with pytest.warns(UserWarning, match="260 px"):
        assert open_exportable(path).shape == (260, 260, 3)
    predictor = ke.Predictor(path, image_size=96)
    assert predictor.prepare(np.zeros((300, 200), np.uint8)).shape == (96, 96, 3)


def test_another_size_than_the_network_takes(model_files):
    with pytest.raises(InputError, match=r"takes \(64, 64, 3\), and image_size is 96"):
        ke.Predictor(model_files["float32"], image_size=96)


def test_a_file_of_no_known_size_is_refused(small, tmp_path):
    ke.EfficientNet(small, input_shape=(None, None, 3), classes=2).save(tmp_path / "model.keras")
    with pytest.raises(InputError, match=r"any size and does not say which; pass image_size"):
        ke.Predictor(tmp_path / "model.keras")


def test_images_are_resized_as_the_file_says(small, tmp_path):
    """And by a SavedModel's own operations alike."""
    model = ke.EfficientNet(small, input_shape=(32, 32, 3), classes=2)
    pixels = np.random.default_rng(0).integers(0, 256, (70, 70, 3), np.uint8)
    prepared = {}
    for way in ("bicubic", "bilinear"):
        path = tmp_path / f"{way}.keras"
        save_keras(model, path, {"interpolation": way, "crop_fraction": 1.0})
        prepared[way] = ke.Predictor(path).prepare(pixels)
        expected = Image.fromarray(pixels).resize((32, 32), Image.Resampling[way.upper()])
        np.testing.assert_array_equal(prepared[way], expected)
        png = tf.io.encode_png(pixels)
        by_tensorflow = prepare_encoded(png, 32, 1.0, way).numpy()
        assert np.abs(by_tensorflow.astype(int) - prepared[way]).max() <= 1
    assert (prepared["bicubic"] != prepared["bilinear"]).any()
    known = read_description(path)
    assert known
    with pytest.raises(InputError, match="interpolation of the description must be one of"):
        known.replaced({"interpolation": "nearest"})
