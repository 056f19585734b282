"""Models made ready for export."""

import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet import InputError, deploy
from keras_efficientnet.deploy.exportable import described, open_exportable
from keras_efficientnet.description import read_description


@pytest.fixture(scope="module")
def photos():
    return np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)


def transfer(base):
    """A user's own head, with layers that random numbers feed in training."""
    return keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            keras.layers.RandomFlip(),
            base,
            keras.layers.Lambda(lambda x: x * 2),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(4, activation="softmax"),
        ],
        name="mine",
    )


@pytest.mark.parametrize(
    ("precision", "head"), [("mixed_bfloat16", True), ("mixed_float16", False)]
)
def test_half_precision_is_exported_in_float32(small, randomize, policy, photos, precision, head):
    def build():
        options = {"include_top": False, "pooling": "avg"} if head else {"classes": 4}
        base = ke.EfficientNet(small, input_shape=(32, 32, 3), **options)
        return transfer(base) if head else base

    exact = build()
    base = exact.layers[1] if head else exact
    randomize(base)
    policy(precision)
    half = build()
    half.compile(loss="mse")
    half.set_weights(exact.get_weights())
    policy("float32")
    network = open_exportable(half)
    scores = network.scores(photos)
    np.testing.assert_allclose(scores, exact.predict(photos, verbose=0), atol=1e-5)
    assert np.abs(scores - half.predict(photos, verbose=0)).max() > 1e-5
    assert network.model
    assert network.model.name == half.name
    assert half.compiled  # the caller's own model is left as it was


def test_a_model_in_float32_is_taken_as_it_is(small):
    model = ke.EfficientNet(small, input_shape=(32, 32, 3), classes=2)
    network = open_exportable(model)
    assert network.model is model
    assert open_exportable(network) is network
    assert open_exportable(network, {"class_names": "ab"}).description.class_names == ("a", "b")
    assert (network.shape, network.output_shape, network.classifies) == ((32, 32, 3), (2,), True)
    assert network.gives_probabilities
    logits = ke.EfficientNet(small, input_shape=(32, 32, 3), classifier_activation=None)
    assert not open_exportable(logits).gives_probabilities


@pytest.mark.parametrize("channels", [1, 3])
def test_the_graph_shows_whether_it_has_the_preprocessing(small, channels):
    shape = (32, 32, channels)
    inside = ke.EfficientNet(small, input_shape=shape)
    assert described(inside).pixel_mean == (0,)
    assert described(transfer_of(inside)).takes_raw_pixels
    outside = ke.EfficientNet("B0", input_shape=shape, include_preprocessing=False)
    description = described(outside)
    assert (description.variant, description.image_size, len(description.pixel_mean)) == (
        "B0",
        32,
        channels,
    )
    normalize = ke.EfficientNet("B0", input_shape=shape).get_layer("normalize")
    pixels = np.random.default_rng(0).integers(0, 256, (1, *shape), np.uint8)
    np.testing.assert_allclose(description.network_input(pixels), normalize(pixels), atol=1e-5)


def transfer_of(model):
    return keras.Sequential([keras.Input(model.input_shape[1:]), model])


def test_a_model_of_any_size_gets_the_one_that_is_named(small, photos):
    free = ke.EfficientNet(small, include_top=False)
    with pytest.raises(InputError, match=r"any size and does not say which; pass image_size"):
        open_exportable(free)
    network = open_exportable(free, {"image_size": 32})
    assert (network.shape, network.output_shape) == (
        (32, 32, 3),
        free.compute_output_shape((1, 32, 32, 3))[1:],
    )
    assert not network.classifies
    np.testing.assert_allclose(network.scores(photos), free.predict(photos, verbose=0), atol=1e-5)


@pytest.mark.parametrize("nested", [False, True])
def test_a_published_network_of_any_size_gets_its_own_and_says_so(nested):
    options = {"include_top": False, "pooling": "avg"} if nested else {"classes": 2}
    model = ke.EfficientNetLite2(weights=None, input_shape=(None, None, 3), **options)
    if nested:
        model = transfer_of(model)
    with pytest.warns(UserWarning, match="260 px are used, those of EfficientNet-Lite2"):
        assert described(model).image_size == 260
    assert described(model, {"image_size": 96}).image_size == 96


def test_files_give_what_the_model_gives(model_files):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 64, 64, 3), np.uint8)
    networks = [open_exportable(model_files[name]) for name in ("keras", "saved_model")]
    assert (
        networks[0].description == networks[1].description == read_description(model_files["keras"])
    )
    first, second = (network.scores(pixels) for network in networks)  # more than one batch
    assert first.shape == (70, 3)
    np.testing.assert_allclose(first, second, atol=1e-6)
    with pytest.raises(InputError, match=r"pass the \.keras file"):
        deploy.export_saved_model(networks[1], "again")
    named = open_exportable(networks[1], {"license": "MIT"})
    assert (named.description.license, named.description.class_names[1]) == ("MIT", "犬")


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


def test_what_cannot_be_exported_is_refused(small, model_files, tmp_path):
    import tensorflow as tf

    (tmp_path / "broken.keras").write_bytes(b"PK not really")
    (tmp_path / "folder").mkdir()
    tf.saved_model.save(tf.Module(), str(tmp_path / "nothing"))
    image = keras.Input((32, 32, 3))
    flat = keras.layers.Flatten()(image)
    for model, description, message in (
        (tmp_path / "none.keras", None, "does not exist"),
        (tmp_path / "broken.keras", None, "Cannot load model"),
        (tmp_path / "folder", None, "cannot be exported; a .keras or .h5 file or a SavedModel"),
        (model_files["float32"], None, "cannot be exported; a .keras or .h5 file"),
        (tmp_path / "nothing", None, "no signature 'serving_default'"),
        (Subclassed(name="own"), None, "'own' must be a functional or Sequential"),
        (keras.Model(image, [flat, flat], name="two"), None, "'two' has 1 inputs and 2 outputs"),
        (
            keras.Sequential([keras.Input((5,)), keras.layers.Dense(2)]),
            None,
            r"takes \(5,\); a model of images",
        ),
        (
            keras.Sequential([keras.Input((32, 48, 3)), keras.layers.Flatten()]),
            None,
            "32 x 48 pixels",
        ),
        (model_files["keras"], {"image_size": 32}, "64 x 64 pixels, which does not fit"),
        (model_files["keras"], {"class_names": ["a"]}, r"1 class names do not fit .* gives \(3,\)"),
        (model_files["saved_model"], {"class_names": ["a"]}, "1 class names do not fit"),
        (model_files["keras"], {"clas_names": ["a"]}, "description has no 'clas_names'"),
    ):
        with pytest.raises(InputError, match=message):
            open_exportable(model, description)


def test_the_other_layout_is_refused(small, channels_first):
    image = keras.Input((3, 32, 32))
    with pytest.raises(InputError, match="channels_first"):
        open_exportable(keras.Model(image, keras.layers.Flatten()(image)))
