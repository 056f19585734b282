"""Exporting a model: what is refused, what is checked, and what is left behind."""

import dataclasses
import json
import re

import keras
import numpy as np
import pytest
from image_helpers import real_photos, write_classes

import keras_efficientnet as ke
from keras_efficientnet import InputError, deploy
from keras_efficientnet.data import sources
from keras_efficientnet.data.dataset import LeftOut
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.description import read_description

NAMES = ("chat", "犬", "лиса")
SIZE = 64


@pytest.fixture(scope="module")
def photos():
    return real_photos(SIZE, 40)


@pytest.fixture(scope="module")
def network(small, tell_apart, photos):
    model = ke.EfficientNet(small, classes=3, input_shape=(SIZE, SIZE, 3))
    return open_exportable(tell_apart(model, photos), {"class_names": NAMES})


# Of random weights nothing is asked but that there is an int8 file.
ANYTHING = deploy.ExportOptions(min_agreement=0)


def labelled(photos, labels, names=NAMES):
    examples = sources.ArrayExamples(photos, np.asarray(labels))
    return sources.Dataset("photos", "photos", names, examples, examples, 1.0, False)


def test_a_model_without_class_names_takes_those_of_the_data(network, photos, tmp_path):
    data = labelled(photos, [0] * len(photos), ("a", "b", "c"))

    def described(name, model, description=None, data=data):
        report = ke.export(model, tmp_path / name, calibration=data, description=description)
        by_position = ["by position alone, in this order: a, b, c." in w for w in report.warnings]
        assert any(by_position) == (name in ("bare", "cropped"))
        found = read_description(tmp_path / name / "model_float32.tflite")
        assert found
        return found.class_names, found.crop_fraction

    assert described("bare", network.model) == (("a", "b", "c"), 1.0)
    assert described("named", network) == (NAMES, 0.875)
    named = {"class_names": NAMES}
    assert described("told", network.model, named) == (NAMES, 1.0)
    assert described("cropped", network.model, {"crop_fraction": 0.5}) == (("a", "b", "c"), 0.5)
    of_others = labelled(photos, [0] * len(photos), ("a", "b"))
    assert described("others", network.model, data=of_others) == ((), 0.875)


def test_every_file_is_checked_and_put_in_place(network, photos, tmp_path):
    pytest.importorskip("tf2onnx")
    # As evaluation prepares them, so that the model's own answers are the right ones.
    held_out = np.stack(
        [ke.data.images.prepare(ke.data.images.read(p), SIZE, 0.875) for p in photos]
    )
    right = network.scores(held_out).argmax(1)
    other = ("лиса", "chat", "犬")  # the data have the same names in another order
    data = labelled(photos, [other.index(NAMES[label]) for label in right], other)
    left_out = (LeftOut("bad.jpg", "is no image"),)
    data = dataclasses.replace(data, left_out=left_out)
    formats = ("onnx", "tflite", "saved_model")
    report = ke.export(network, tmp_path, formats, ("float32", "int8"), data, options=ANYTHING)
    names = [file.name for file in report.files]
    assert names == ["saved_model", "model_float32.tflite", "model_int8.tflite", "model.onnx"]
    assert [file.format for file in report.files] == ["saved_model", "tflite", "tflite", "onnx"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names, "model_card.md"])
    for file in report.files:
        assert file.number_format == ("int8" if "int8" in file.name else "float32")
        assert read_description(tmp_path / file.name) == network.description
        assert bool(file.operators) == file.name.endswith(".tflite")
        assert (file.int8 is not None) == (file.number_format == "int8")
        assert file.latency_ms is not None
        assert file.latency_ms > 0
        if file.number_format == "float32":
            assert file.agreement == file.accuracy == 1
            assert file.max_abs_difference < 1e-4
    assert report.file("model.onnx").size == (tmp_path / "model.onnx").stat().st_size
    assert report.file("model_int8.tflite").max_abs_difference > 1e-4
    with pytest.raises(KeyError, match=r"model\.keras"):
        report.file("model.keras")
    assert report.source_accuracy == 1
    assert (report.images, report.compared_on) == (20, "held-out images")
    assert report.reported_images == 20
    assert (report.left_out, report.failed, report.warnings) == (left_out, (), ())
    assert report.preprocessing == "inside the graph"
    assert report.directory == str(tmp_path)
    card = (tmp_path / "model_card.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in card for name in names)


def test_a_file_is_exported_again(model_files, tmp_path):
    for source in ("keras", "saved_model"):
        output = tmp_path / source
        report = ke.export(
            model_files[source], output, quantize="float16", description={"author": "me"}
        )
        (file,) = report.files
        assert (file.name, file.number_format) == ("model_float16.tflite", "float16")
        assert file.max_abs_difference < 2e-2
        assert file.accuracy is report.source_accuracy is None
        assert report.compared_on == "images of random pixels"
        description = read_description(output / "model_float16.tflite")
        assert description == dataclasses.replace(
            read_description(model_files[source]), author="me"
        )


def test_options_are_refused_before_the_model_is_looked_at(tmp_path, photos, model_files):
    (tmp_path / "model_int8.tflite").write_text("precious")
    nothing = tmp_path / "none.keras"
    for options, message in (
        ({"formats": "tflit"}, "formats='tflit' must be one or several of keras, saved_model"),
        ({"formats": ()}, "formats="),
        ({"quantize": ("float32", "int4")}, "quantize=.* must be one or several of float32"),
        ({"formats": "onnx", "quantize": "int8"}, "quantize='int8' goes with the format 'tflite'"),
        ({"quantize": "int8"}, r"int8 needs calibration images; name training data \(--calib"),
        ({"quantize": "int16x8"}, "int16x8 needs calibration images"),
        ({"quantize": "int8", "calibration": photos}, "exists; pass --overwrite"),
    ):
        with pytest.raises(InputError, match=message):
            ke.export(nothing, tmp_path, **options)
    source = model_files["saved_model"]
    with pytest.raises(InputError, match=r"as tflite only; export the \.keras file .* onnx"):
        ke.export(source, tmp_path, ("tflite", "onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["model_int8.tflite"]
    assert (tmp_path / "model_int8.tflite").read_text() == "precious"


def test_an_int8_file_that_no_search_finds_costs_no_other_file(network, photos, tmp_path):
    head = network.model.get_layer("predictions")
    before = head.get_weights()
    try:
        # Scores that 8 bits cannot tell apart.
        head.set_weights([1e-7 * value for value in before])
        with pytest.raises(deploy.ExportError, match=r"No int8 file agrees .* on 97\.0%") as caught:
            ke.export(network, tmp_path, quantize=("int8", "float32"), calibration=photos)
    finally:
        head.set_weights(before)
    assert [file.name for file in caught.value.report.failed] == ["model_int8.tflite"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model_card.md", "model_float32.tflite"]


def test_a_file_below_the_gate_is_never_in_place_whatever_the_search_counted(
    network, photos, tmp_path
):
    """The search sees images that are clear to the model; the gate's are on the edge."""
    scores = np.sort(network.scores(photos), 1)
    clear = photos[np.argsort(scores[:, -2] - scores[:, -1])[:20]]
    decisions = network.scores(photos).argmax(1)
    pairs = np.array([(i, j) for i in range(40) for j in range(i) if decisions[i] != decisions[j]])
    first, second = photos[pairs[::4][:40].T].astype(float)
    low, high, between = np.zeros(len(first)), np.ones(len(first)), photos[:0]
    for _ in range(12):  # towards the place between the two where the decision changes
        middle = (low + high) / 2
        share = middle[:, None, None, None]
        between = np.rint(first + share * (second - first)).astype(np.uint8)
        same = network.scores(between).argmax(1) == network.scores(first.astype(np.uint8)).argmax(1)
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    images = deploy.CalibrationSet(clear, between)
    options = deploy.ExportOptions(min_agreement=0.9)
    with pytest.raises(deploy.ExportError) as caught:
        ke.export(network, tmp_path, "tflite", ("int8", "float32"), images, options=options)
    (failed,) = caught.value.report.failed
    assert failed.name == "model_int8.tflite"
    # Not the search's sentence: that has found a file which agrees on its own images.
    assert re.match(
        r"The int8 file agrees with the model on \d\d\.\d% .* of 40 held-out images", failed.reason
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model_card.md",
        "model_float32.tflite",
    ]


@pytest.mark.slow
def test_an_int8_file_of_a_network_fine_tuned_for_it(network, photos, tmp_path):
    options = deploy.ExportOptions(min_agreement=0, qat_epochs=1)
    report = ke.export(network, tmp_path, quantize="int8", calibration=photos, options=options)
    int8 = report.file("model_int8.tflite").int8
    assert int8
    assert int8.qat_epochs == 1


def test_a_saved_model_cannot_be_fine_tuned(model_files, photos, tmp_path):
    options = deploy.ExportOptions(qat_epochs=1)
    with pytest.raises(InputError, match=r"cannot be fine-tuned; export the \.keras file"):
        ke.export(
            model_files["saved_model"],
            tmp_path,
            quantize="int8",
            calibration=photos,
            options=options,
        )


def test_files_that_mediapipe_will_not_take_are_warned_of(tmp_path):
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    values = {"pixel_mean": (1.0, 2.0, 3.0), "pixel_std": (1.0, 1.0, 1.0)}
    report = ke.export(model, tmp_path, description=values)
    assert any(each.startswith("MediaPipe will not take") for each in report.warnings)


def test_a_missing_package_is_named(model_files, tmp_path, monkeypatch):
    find = deploy.onnx.importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *rest: None if name == "tf2onnx" else find(name)
    )
    with pytest.raises(InputError, match=r"needs the package tf2onnx; install .* extra 'onnx'"):
        ke.export(model_files["keras"], tmp_path, "onnx")


def tiny(function):
    """The mean of each channel and what becomes of it: quick to export."""
    image = keras.Input((32, 32, 3))
    mean = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(image))
    return keras.Model(image, keras.layers.Lambda(function)(mean))


def test_a_file_that_fails_costs_none_of_the_others(tmp_path):
    pytest.importorskip("tf2onnx")
    with pytest.raises(deploy.ExportError) as raised:
        ke.export(tiny(keras.ops.erf), tmp_path, ("tflite", "onnx"))
    report = raised.value.report
    assert str(raised.value) == (
        "model_float32.tflite could not be made; in place are model.onnx: LiteRT has no built-in "
        "operator for Erf, which the model uses; replace the layer that does."
    )
    assert [file.name for file in report.files] == ["model.onnx"]
    (failed,) = report.failed
    assert failed.name == "model_float32.tflite"
    assert failed.reason.startswith("LiteRT has no built-in operator for Erf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model_card.md"]


def test_a_file_with_other_numbers_is_not_put_in_place(tmp_path):
    import tensorflow as tf

    # LiteRT draws other numbers than TensorFlow.
    model = tiny(lambda mean: mean + tf.random.uniform(tf.shape(mean)))
    with pytest.raises(deploy.ExportError, match="gives other outputs than the model, by up to"):
        ke.export(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_network_of_no_numbers_is_refused(tmp_path):
    with pytest.raises(InputError, match="gives outputs that are no numbers"):
        ke.export(tiny(lambda mean: keras.ops.log(mean - 1)), tmp_path)


def test_doubtful_calibration_is_warned_of(network, photos, tmp_path, capsys):
    few = labelled(photos[:3], [0, 1, 2])
    report = ke.export(network, tmp_path, quantize="int8", calibration=few, options=ANYTHING)
    (warning,) = report.warnings
    assert warning.startswith("3 calibration images are few to take ranges from")
    assert "100 or more are better" in warning
    assert f"Warning: {warning}" in capsys.readouterr().err
    one_class = labelled(photos, [1] * 40)
    options = {"calibration": lambda: one_class, "options": ANYTHING, "overwrite": True}
    report = ke.export(network, tmp_path, quantize="int8", **options)
    (warning,) = report.warnings
    assert "All calibration images are of one class" in warning
    assert "name data with images of every class" in warning


def test_calibration_from_folders_says_what_to_do(network, tmp_path, capsys):
    def export(root, **options):
        return ke.export(
            network,
            tmp_path / "out",
            quantize="int8",
            calibration=f"folder:{root}",
            options=ANYTHING,
            **options,
        )

    write_classes(tmp_path / "some", count=30)
    (tmp_path / "some" / "red" / "broken.jpg").write_bytes(b"no image")
    report = export(tmp_path / "some")  # other classes than the model's, of another size
    (left_out,) = report.left_out
    assert left_out.path.endswith("broken.jpg")
    assert "is not an image that can be read" in left_out.reason
    assert report.images == 12
    assert report.files[0].accuracy is report.source_accuracy is None
    write_classes(tmp_path / "three", count=1)
    for root, message in (
        ("three", "has only one image; at least two are needed"),
        ("none", "does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            export(tmp_path / root, overwrite=True)


def test_arrays_that_do_not_fit_say_what_to_do(network, small, photos, tmp_path):
    for images, message in (
        (photos[:, ::2], r"\(32, 64, 3\) do not fit .* resize them \(ke.data.images.prepare\)"),
        (photos[..., :1], "do not fit a model that takes"),
        (photos / 127.5 - 1, "must be pixels in 0-255, not normalized ones"),
        (photos / 255, "seem to lie between 0 and 1; multiply them by 255"),
        (photos > 127, "seem to lie between 0 and 1; multiply them by 255"),
        (photos[:0], "no images to calibrate with"),
    ):
        with pytest.raises(InputError, match=message):
            ke.export(network, tmp_path, quantize="int8", calibration=images)
    grey = ke.EfficientNet(small, classes=3, input_shape=(32, 32, 1))
    with pytest.raises(InputError, match="takes images of 1 channels, and data sets have three"):
        ke.export(grey, tmp_path, quantize="int8", calibration=labelled(photos, [0] * 40))
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_normalizes_nowhere_is_warned_of(tmp_path):
    image = keras.Input((32, 32, 3))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image), name="mine")
    report = ke.export(model, tmp_path)
    assert "mine does not normalize its images" in report.warnings[0]
    report = ke.export(
        model, tmp_path, overwrite=True, description={"pixel_mean": [128], "pixel_std": [128]}
    )
    assert report.warnings == ()
    assert report.preprocessing == "outside the graph: (pixels - [128]) / [128]"


JAX = """
import dataclasses, json, sys
import keras, numpy as np
import keras_efficientnet as ke
assert keras.backend.backend() == "jax"
model = keras.saving.load_model(sys.argv[1])
description = ke.read_description(sys.argv[1])
images = np.load(sys.argv[3])
report = ke.export(
    model, sys.argv[2], ("saved_model", "tflite"), "int8", images, description=description,
    options=ke.deploy.ExportOptions(min_agreement=0),
)
print(json.dumps(dataclasses.asdict(report)))
"""


@pytest.mark.jax
def test_a_model_on_jax_is_exported_through_tensorflow(model_files, photos, run_python, tmp_path):
    pytest.importorskip("jax")
    np.save(tmp_path / "photos.npy", photos)
    arguments = (model_files["keras"], tmp_path / "out", tmp_path / "photos.npy")
    printed = run_python(JAX, *arguments, KERAS_BACKEND="jax").splitlines()[-1]
    report = deploy.ExportReport.from_dict(json.loads(printed))
    assert report.file("saved_model").agreement == 1
    assert all(file.latency_ms for file in report.files)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "model_card.md",
        "model_int8.tflite",
        "saved_model",
    ]
    description = read_description(tmp_path / "out" / "model_int8.tflite")
    assert description == read_description(model_files["keras"])
