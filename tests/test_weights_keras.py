"""Files of Keras: layouts, adaptation to other heads and channels, pixels, reports."""

import dataclasses
import functools
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from weights_helpers import application, images, outputs, randomize, relative_difference

import keras_efficientnet as ke
from keras_efficientnet import spec, weights
from keras_efficientnet.description import read_description

SLOW = ("B3", "V2-S")
EXHAUSTIVE = ("B1", "B2", "B4", "B5", "B6", "B7", "V2-B1", "V2-B2", "V2-B3", "V2-M", "V2-L")
LAYOUTS = ("model.weights.h5", "model.keras", "model.h5", "saved_model")
EXPORTED = pytest.param("saved_model", marks=pytest.mark.slow)


def save(model, path):
    """Saves a model in the format that the path's name means."""
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
    elif path.suffix in (".keras", ".h5"):
        model.save(path)
    else:
        model.export(path, verbose=False)
    return path


@pytest.fixture(scope="module")
def made():
    """A network of keras.applications, ours, and the first one's outputs; the last kept."""

    @functools.lru_cache(maxsize=1)
    def make(variant):
        peer = application(variant)
        return peer, build(variant), outputs(peer, images())

    return make


@pytest.fixture(scope="module")
def peer():
    return application("B0")


@pytest.fixture(scope="module")
def network():
    """One B0 for the tests that fill all of it."""
    return ke.EfficientNetB0(weights=None, input_shape=(64, 64, 3), classifier_activation=None)


@pytest.fixture(scope="module")
def file(peer, tmp_path_factory):
    return save(peer, tmp_path_factory.mktemp("files") / "model.weights.h5")


def build(variant, **options):
    options = {"input_shape": (64, 64, 3), "classifier_activation": None, **options}
    return ke.EfficientNet(variant, **options)


@pytest.mark.parametrize(
    ("variant", "layout"),
    [
        *(("B0", layout) for layout in LAYOUTS),
        ("V2-B0", LAYOUTS[0]),
        *(pytest.param("V2-B0", name, marks=pytest.mark.slow) for name in LAYOUTS[1:]),
        *(pytest.param(name, LAYOUTS[0], marks=pytest.mark.slow) for name in SLOW),
        *(pytest.param(name, LAYOUTS[0], marks=pytest.mark.exhaustive) for name in EXHAUSTIVE),
    ],
)
def test_every_layout_gives_the_outputs_of_keras_applications(variant, layout, tmp_path, made):
    peer, network, expected = made(variant)
    randomize(network, seed=7)
    report = ke.load_weights(network, save(peer, tmp_path / layout))
    assert report.complete
    assert set(report.loaded) == set(weights.structure.variables(network))
    assert relative_difference(outputs(network, images()), expected) < 1e-5


@pytest.mark.parametrize("layout", [*LAYOUTS[:3], EXPORTED])
def test_our_own_files(layout, network, tmp_path):
    randomize(network, seed=8)
    pixels = images()
    expected = outputs(network, pixels)
    path = save(network, tmp_path / layout)
    randomize(network, seed=9)
    assert ke.load_weights(network, path).complete
    np.testing.assert_array_equal(outputs(network, pixels), expected)


def test_files_of_a_keras_that_kept_no_layer_names(peer, network, tmp_path):
    archive = save(peer, tmp_path / "new.keras")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(tmp_path / "old.keras", "w") as new:
        (tmp_path / "old.weights.h5").write_bytes(old.read("model.weights.h5"))
        with h5py.File(tmp_path / "old.weights.h5", "r+") as file:
            groups = []
            file.visititems(lambda _, item: groups.append(item))
            for group in groups:
                group.attrs.pop("name", None)
        new.write(tmp_path / "old.weights.h5", "model.weights.h5")
        new.writestr("config.json", old.read("config.json"))
    randomize(network, seed=7)
    assert ke.load_weights(network, tmp_path / "old.keras").complete
    assert relative_difference(outputs(network, images()), outputs(peer, images())) < 1e-5
    with pytest.raises(ke.InputError, match="has no layer names"):
        ke.load_weights(network, tmp_path / "old.weights.h5")


def test_a_trained_model_with_its_optimizer(tmp_path):
    model = build("B0", classes=3, classifier_activation="softmax")
    model.compile("rmsprop", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    network = build("B0", classes=3)
    for layout in ("model.weights.h5", "model.keras"):
        assert ke.load_weights(network, save(model, tmp_path / layout)).complete


def test_without_the_top(file, peer, tmp_path):
    headless = application("B0", include_top=False)
    path = save(headless, tmp_path / "notop.weights.h5")
    network = build("B0", include_top=False)
    assert ke.load_weights(network, path).complete
    assert relative_difference(outputs(network, images()), outputs(headless, images())) < 1e-5

    report = ke.load_weights(network, file)
    assert report.complete
    assert set(report.adapted) == {"classifier.kernel", "classifier.bias"}

    with pytest.raises(ke.InputError, match=r"2 missing \(classifier.kernel, classifier.bias\)"):
        ke.load_weights(build("B0"), path)


def test_another_number_of_classes_keeps_the_backbone(file, peer):
    network = build("B0", classes=5)
    fresh = network.get_layer("predictions").kernel.numpy()
    report = ke.load_weights(network, file)
    assert report.complete
    assert report.adapted["classifier.kernel"] == "left fresh: 1000 classes in the file, 5 here"
    np.testing.assert_array_equal(network.get_layer("predictions").kernel.numpy(), fresh)
    features = keras.Model(network.input, network.get_layer("avg_pool").output)
    expected = keras.Model(peer.input, peer.get_layer("avg_pool").output)
    pixels = images()
    assert relative_difference(outputs(features, pixels), outputs(expected, pixels)) < 1e-5


def test_one_channel_sees_a_grey_image_as_three_did(file, peer):
    network = build("B0", input_shape=(64, 64, 1), include_preprocessing=False)
    report = ke.load_weights(network, file)
    assert report.adapted == {"stem.conv.kernel": "3 input channels made 1"}
    grey = np.random.default_rng(0).normal(size=(2, 64, 64, 1)).astype("float32")
    colour = build("B0", include_preprocessing=False, weights=file)
    expected = outputs(colour, grey.repeat(3, axis=-1))
    assert relative_difference(outputs(network, grey), expected) < 1e-5


def test_another_image_size(file, peer):
    network = build("B0", input_shape=(96, 80, 3), weights=file)
    other = application("B0", input_shape=(96, 80, 3))
    other.set_weights(peer.get_weights())
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 96, 80, 3)).astype("float32")
    assert relative_difference(outputs(network, pixels), outputs(other, pixels)) < 1e-5


def test_pixels_that_the_file_was_not_trained_on_are_refused(network, tmp_path):
    """keras.applications' fresh B0 divides by 255 and does no more."""
    raw = application("B0", classifier_activation="softmax")
    layer = next(x for x in raw.layers if isinstance(x, keras.layers.Normalization))
    layer.adapt_mean.assign(np.zeros(3))
    layer.adapt_variance.assign(np.ones(3))
    layer.finalize_state()
    path = save(raw, tmp_path / "raw.weights.h5")
    before = network.get_weights()
    with pytest.raises(ke.InputError, match=r"the weights need pixels=\(\(0, 0, 0\), \(255"):
        ke.load_weights(network, path)
    assert all(np.array_equal(a, b) for a, b in zip(network.get_weights(), before, strict=True))

    report = ke.load_weights(network, path, strict=False)
    assert set(report.differences) == {"pixels"}
    assert not report.complete

    pixels = ((0, 0, 0), (255, 255, 255))
    fitting = build("B0", classifier_activation="softmax", weights=path, pixels=pixels)
    assert relative_difference(outputs(fitting, images()), outputs(raw, images())) < 1e-5


def test_the_published_files_hold_a_deviation_for_a_variance(peer, network, tmp_path):
    """`weights="imagenet"` files do, and the graph divides once more: see `keras_names`."""
    layer = next(x for x in peer.layers if isinstance(x, keras.layers.Normalization))
    variance = layer.adapt_variance.numpy()
    layer.adapt_variance.assign(np.sqrt(variance))
    try:
        path = save(peer, tmp_path / "published.weights.h5")
    finally:
        layer.adapt_variance.assign(variance)
    assert ke.load_weights(network, path).complete


def test_another_variant_is_refused_and_named(network, tmp_path):
    path = save(build("B1"), tmp_path / "b1.weights.h5")
    before = network.get_weights()
    with pytest.raises(ke.InputError, match="it holds EfficientNet-B1"):
        ke.load_weights(network, path)
    assert all(np.array_equal(a, b) for a, b in zip(network.get_weights(), before, strict=True))


def test_what_does_not_fit_is_reported(network, tmp_path):
    deeper = build(dataclasses.replace(spec.VARIANTS["B0"], depth=1.1))
    wider = save(deeper, tmp_path / "deeper.weights.h5")
    report = ke.load_weights(network, wider, strict=False)
    assert not report.missing
    assert {name.partition("/")[0].partition("_")[0] for name in report.unexpected} == {
        "block1b",
        "block2c",
        "block3c",
        "block4d",
        "block5d",
        "block6e",
        "block7b",
    }
    assert not report.complete
    assert "unexpected" in str(report)


def test_a_model_of_another_kind_is_refused(file):
    with pytest.raises(ke.InputError, match="has no EfficientNet layers"):
        ke.load_weights(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), file)


def test_a_file_of_another_network_is_refused(network, tmp_path):
    other = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ke.InputError, match="is not an EfficientNet's"):
        ke.load_weights(network, save(other, tmp_path / "other.weights.h5"))


def test_symmetric_padding_is_remembered(network, tmp_path):
    symmetric = build(dataclasses.replace(spec.VARIANTS["B0"], padding="symmetric"))
    path = save(symmetric, tmp_path / "symmetric.weights.h5")
    with pytest.raises(ke.InputError, match="need padding='symmetric' and the model has 'same'"):
        ke.load_weights(network, path)
    assert ke.load_weights(symmetric, path).complete


def test_inspect(file):
    found = weights.inspect(file)
    assert (found.variant, found.fits, found.classes, found.channels) == ("B0", True, 1000, 3)
    assert found.missing == found.unknown == ()
    assert found.layout == "Keras .weights.h5, Keras layer names"
    assert found.tensors["block2a.expand.conv.kernel"] == (1, 1, 16, 96)


def test_structure_is_the_models(network):
    for name in ("B0", "V2-B0", "EdgeTPU-S", "Lite0"):
        model = network if name == "B0" else build(name)
        found = {key: tuple(v.shape) for key, v in weights.structure.variables(model).items()}
        assert found == weights.structure.shapes(name)
        assert weights.structure.matching_variant(model) == name


@pytest.mark.parametrize("name", ["out.weights.h5", "out.keras"])
def test_convert(name, file, peer, network, tmp_path):
    output = tmp_path / name
    assert weights.convert(file, "B0", output).complete
    if name.endswith(".keras"):
        found = read_description(output)
        assert found
        assert (found.image_size, found.crop_fraction) == (224, 0.875)
        assert found.class_names == weights.imagenet_classes()
    randomize(network, seed=7)
    assert ke.load_weights(network, output).complete
    assert relative_difference(outputs(network, images()), outputs(peer, images())) < 1e-5


def test_convert_writes_all_or_nothing(file, tmp_path):
    output = tmp_path / "out.keras"
    output.write_bytes(b"precious")
    with pytest.raises(ke.InputError, match="exists"):
        weights.convert(file, "B0", output)
    with pytest.raises(ke.InputError, match="does not fit"):
        weights.convert(file, "B1", output, overwrite=True)
    assert output.read_bytes() == b"precious"
    assert list(tmp_path.iterdir()) == [output]
    weights.convert(file, "B0", output, overwrite=True)
    assert weights.inspect(output).variant == "B0"


def test_convert_names_what_it_cannot_write(file, tmp_path):
    with pytest.raises(ke.InputError, match="must end in"):
        weights.convert(file, "B0", tmp_path / "out.pth")
    (tmp_path / "file").write_text("")
    with pytest.raises(ke.InputError, match="Cannot write to"):
        weights.convert(file, "B0", tmp_path / "file" / "out.keras")


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="needs Linux' count of bytes read")
def test_an_archive_is_read_once(network, tmp_path):
    """And not from its beginning for every tensor."""
    network.save(tmp_path / "model.keras")
    before = bytes_read()
    assert ke.load_weights(network, tmp_path / "model.keras").complete
    assert bytes_read() - before < 3 * (tmp_path / "model.keras").stat().st_size


def bytes_read():
    fields = Path("/proc/self/io").read_text().split()
    return int(fields[fields.index("rchar:") + 1])


def test_a_converted_file_is_used_at_its_own_size(tmp_path):
    source, output = tmp_path / "b1.weights.h5", tmp_path / "b1.keras"
    ke.EfficientNetB1(weights=None, input_shape=(32, 32, 3)).save_weights(source)
    weights.convert(source, "B1", output)
    predictor = ke.Predictor(output)
    assert predictor.description.image_size == 240
    assert predictor.description.crop_fraction == 240 / 272


def test_a_file_is_near_a_variant_only_when_most_of_it_fits(small, tmp_path, run_python):
    path = tmp_path / "own.weights.h5"
    ke.EfficientNet(small, classes=3).save_weights(path)
    found = ke.weights.inspect(path)
    assert (found.variant, found.fits, found.missing) == (None, False, ())
    code = "import sys; from keras_efficientnet.cli import main; main()"
    out = run_python(code, "weights", "inspect", path)
    assert "fits no published variant, 3 channels in" in out
    ke.EfficientNetLite0(weights=None, classes=3).save_weights(path)
    assert ke.weights.inspect(path).variant == "Lite0"


@pytest.mark.slow
def test_a_converted_file_says_how_it_is_evaluated(tmp_path):
    """V2-S is resized bilinearly and whole (AML, preprocessing.py)."""
    source, output = tmp_path / "s.weights.h5", tmp_path / "s.keras"
    ke.EfficientNetV2S(input_shape=(32, 32, 3)).save_weights(source)
    weights.convert(source, "V2-S", output)
    found = read_description(output)
    assert found
    assert (found.image_size, found.crop_fraction, found.interpolation) == (384, 1.0, "bilinear")
    assert found.class_names == weights.imagenet_classes()
