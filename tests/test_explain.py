"""Grad-CAM: equal to the class activation map where it must be, and on the object."""

from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import explain

SHARED = Path(__file__).parents[2] / "shared"
WEIGHTS = SHARED / "weights" / "efficientnet_b0_imagenet_partial_torch_layout.npz"
FLOWERS = SHARED / "data" / "flowers"
# Channels of the image that speak for a class: red and green.
COLOURS = np.array([[1.0, -1.0], [-1.0, 1.0], [0.0, 0.0]], np.float32)


def colour_network(head="softmax", size=64, name=None):
    """Knows red and green things by hand-made weights: the maps have a known answer."""
    image = keras.Input((size, size, 3))
    x = keras.layers.Conv2D(2, 1, activation="relu", name="colours")(image)
    x = keras.layers.AveragePooling2D(4, name="maps")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    if head == "layer":
        x = keras.layers.Dense(2, name="scores")(x)
        outputs = keras.layers.Softmax()(x)
    else:
        outputs = keras.layers.Dense(2, activation=head, name="scores")(x)
    model = keras.Model(image, outputs, name=name)
    model.get_layer("colours").set_weights([COLOURS[None, None], np.zeros(2)])
    model.get_layer("scores").set_weights([np.eye(2, dtype=np.float32) / 8, np.zeros(2)])
    return model


@pytest.fixture(scope="module")
def red_and_green():
    """A red square at the upper left and a green one at the lower right, on blue."""
    image = np.zeros((64, 64, 3), np.float32)
    image[..., 2] = 200
    image[8:24, 12:28] = (255, 0, 0)
    image[40:60, 32:56] = (0, 255, 0)
    return image


def share_within(heatmap, rows, columns):
    return heatmap[rows, columns].sum() / heatmap.sum()


@pytest.mark.parametrize("head", ["softmax", "sigmoid", None, "layer"])
def test_the_map_lies_on_the_object_of_the_class(head, red_and_green):
    model = colour_network(head)
    for class_index, place in ((0, np.s_[8:24, 12:28]), (1, np.s_[40:60, 32:56])):
        heatmap = ke.explain.grad_cam(model, red_and_green, class_index)
        assert heatmap.shape == (64, 64)
        assert heatmap.dtype == np.float32
        assert heatmap.min() >= 0
        assert heatmap.max() == pytest.approx(1)
        # A pixel or two of the smooth edge lie outside.
        assert share_within(heatmap, *place) > 0.8
        assert heatmap[place].mean() > 0.85
    best = int(np.argmax(model(red_and_green[None])))
    np.testing.assert_array_equal(
        explain.grad_cam(model, red_and_green), explain.grad_cam(model, red_and_green, best)
    )


def test_a_sure_network_is_explained_as_well_as_an_unsure_one(red_and_green):
    """Behind the softmax, the gradient of a sure class would be 0."""
    unsure, sure = colour_network(), colour_network()
    sure.get_layer("scores").set_weights([100 * np.eye(2, dtype=np.float32), np.zeros(2)])
    assert sure(red_and_green[None])[0, 1] == 1
    for class_index in (0, 1):
        np.testing.assert_allclose(
            explain.grad_cam(sure, red_and_green, class_index),
            explain.grad_cam(unsure, red_and_green, class_index),
            atol=1e-5,
        )


def test_over_pooling_it_is_the_class_activation_map(small, randomize):
    """Zhou et al.: the features of each place times the weights of the class."""
    model = randomize(ke.EfficientNet(small, classes=5, input_shape=(96, 64, 3)))
    image = np.random.default_rng(3).integers(0, 256, (96, 64, 3), np.uint8)
    features = keras.Model(model.input, model.get_layer("top_activation").output)
    maps = np.asarray(features(image[None].astype(np.float32), training=False))[0]
    kernel = np.asarray(model.get_layer("predictions").kernel)
    explainer = explain.GradCAM(model)
    for class_index in range(5):
        expected = np.maximum(maps @ kernel[:, class_index], 0)
        heatmap = explainer(image, class_index)
        assert heatmap.shape == (96, 64)
        # Where nothing is interpolated: the middle of each of the 3 x 2 places.
        if expected.max() > 0:
            middles = heatmap.reshape(3, 32, 2, 32)[:, 15:17, :, 15:17].mean((1, 3))
            np.testing.assert_allclose(middles, expected / expected.max(), atol=0.02)
        else:
            assert not heatmap.any()


def test_any_block_end_can_be_looked_at(small, randomize):
    model = randomize(ke.EfficientNet(small, classes=3, input_shape=(64, 64, 3)))
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    maps = [explain.grad_cam(model, image, 0, layer) for layer in (None, "block5a_project_bn")]
    assert all(heatmap.shape == (64, 64) for heatmap in maps)
    assert not np.allclose(*maps)
    np.testing.assert_array_equal(maps[0], explain.grad_cam(model, image, 0, "top_activation"))


def test_explaining_leaves_the_model_as_it_was(small, tmp_path):
    model = ke.EfficientNet(small, classes=3, input_shape=(64, 64, 3))
    image = np.zeros((64, 64, 3))
    config, weights = model.to_json(), model.get_weights()
    for layer in (None, "block5a_project_bn"):
        explain.grad_cam(model, image, 0, layer)
    assert model.to_json() == config
    for before, after in zip(weights, model.get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(again(image[None]), model(image[None]), atol=1e-6)


def test_a_network_inside_a_network_is_explained(red_and_green):
    """As in transfer learning: the feature map is the inner network's output in the outer one."""
    inner = keras.Sequential(
        [keras.Input((64, 64, 3)), keras.layers.Conv2D(2, 1, activation="relu")], name="inner"
    )
    inner.set_weights([COLOURS[None, None], np.zeros(2)])
    outer = keras.Sequential(
        [
            keras.Input((64, 64, 3)),
            keras.layers.Rescaling(1 / 255),
            inner,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(2, activation="softmax", use_bias=False),
        ]
    )
    outer.layers[-1].set_weights([np.eye(2, dtype=np.float32)])
    for layer in (None, "inner"):
        heatmap = explain.grad_cam(outer, red_and_green, 0, layer)
        assert share_within(heatmap, *np.s_[8:24, 12:28]) > 0.99


def test_a_stranger_of_keras_applications_is_explained():
    model = keras.applications.MobileNetV3Small(
        weights=None, input_shape=(64, 64, 3), classes=4, include_preprocessing=True
    )
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    # Its head works on 1 x 1 maps, which have no places to show.
    assert explain.GradCAM(model).feature_shape[:2] == (2, 2)
    assert explain.grad_cam(model, image, 1).shape == (64, 64)


def test_half_precision_is_explained(policy, red_and_green):
    expected = explain.grad_cam(colour_network(), red_and_green, 0)
    policy("mixed_bfloat16")
    np.testing.assert_allclose(
        explain.grad_cam(colour_network(), red_and_green, 0), expected, atol=0.02
    )


def test_what_cannot_be_explained_is_a_sentence(small, red_and_green):
    model = ke.EfficientNet(small, classes=3, input_shape=(64, 64, 3))
    image = np.zeros((64, 64, 3))
    features = ke.EfficientNet(small, include_top=False)

    class Own(keras.Model):
        def call(self, x):
            return x

    flat = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten()])
    skip = next(layer.name for layer in model.layers if layer.name.endswith("_drop"))
    for call, message in (
        (lambda: explain.grad_cam(model, image[:32]), r"\(32, 64, 3\); the network takes \(64"),
        (lambda: explain.grad_cam(model, image[0]), "image has shape"),
        (lambda: explain.grad_cam(model, image, 3), "class_index=3 must be from 0 to 2"),
        (lambda: explain.grad_cam(model, image, 0, "block9z"), "no layer 'block9z'"),
        (lambda: explain.grad_cam(model, image, 0, "avg_pool"), "can be explained"),
        (lambda: explain.grad_cam(model, image, 0, skip), "a path around this layer"),
        (lambda: explain.grad_cam(features, image), "one score for each class"),
        (lambda: explain.grad_cam(Own(), image), "functional or sequential"),
        (lambda: explain.grad_cam(keras.Sequential(), image), "functional or sequential"),
        (lambda: explain.grad_cam(flat, image[:4, :4]), "has no feature map"),
    ):
        with pytest.raises(ke.InputError, match=message):
            call()


BACKENDS = """
import sys
import keras, numpy as np
import keras_efficientnet as ke
assert keras.backend.backend() == sys.argv[3]
model = keras.saving.load_model(sys.argv[1], compile=False)
image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
maps = [ke.explain.grad_cam(model, image, index) for index in range(3)]
np.save(sys.argv[2], maps)
"""


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("jax", marks=pytest.mark.jax),
        pytest.param("torch", marks=pytest.mark.torch),
    ],
)
def test_every_backend_gives_the_same_map(backend, model_files, run_python, tmp_path):
    pytest.importorskip(backend)
    output = tmp_path / "maps.npy"
    run_python(BACKENDS, model_files["keras"], output, backend, KERAS_BACKEND=backend)
    model = keras.saving.load_model(model_files["keras"], compile=False)
    image = np.random.default_rng(3).integers(0, 256, (64, 64, 3), np.uint8)
    expected = [explain.grad_cam(model, image, index) for index in range(3)]
    assert np.max(expected) == 1
    np.testing.assert_allclose(np.load(output), expected, atol=2e-3)


def test_predict_writes_pictures(model_files, tmp_path):
    rng = np.random.default_rng(0)
    files = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/y.png")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (70, 90, 3), np.uint8)).save(file)
    predictor = ke.Predictor(model_files["keras"])
    folder = tmp_path / "why"
    passed = explain.explained(predictor, [*files, tmp_path / "none.jpg"], folder)
    first, answer, picture = next(passed)
    assert (first, picture) == (files[0], folder / "x.png")
    expected = predictor.classify(files[0])
    assert answer.labels == expected.labels
    np.testing.assert_allclose(answer.scores, expected.scores, atol=1e-5)
    assert not folder.exists()  # not before all are there
    *rest, (_, error, nothing) = list(passed)
    assert [picture for _, _, picture in rest] == [folder / "x-2.png", folder / "y.png"]
    assert "none.jpg does not exist" in str(error)
    assert nothing is None
    assert sorted(path.name for path in folder.iterdir()) == ["x-2.png", "x.png", "y.png"]
    with Image.open(folder / "y.png") as picture:
        assert picture.size == (2 * explain.PICTURE_SIDE, explain.PICTURE_SIDE)
        left = np.asarray(picture)[:, : explain.PICTURE_SIDE]
    expected = ke.data.images.prepare(Image.open(files[2]), explain.PICTURE_SIDE, 0.875)
    np.testing.assert_array_equal(left, expected)
    stopped = explain.explained(predictor, files, tmp_path / "stopped")
    next(stopped)
    stopped.close()
    assert not (tmp_path / "stopped").exists()
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
@pytest.mark.skipif(not WEIGHTS.exists(), reason="needs the files in ../shared")
def test_on_real_photos_the_map_lies_on_the_flower_of_the_class():
    """Two flowers side by side: which of them lights up depends on the class asked for.

    The features are B0's with ImageNet weights up to block 7a, the classifier a linear one.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    names = ("sunflowers", "tulips")
    backbone = ke.EfficientNetB0(weights=None, include_top=False)
    ke.load_weights(backbone, WEIGHTS, strict=False)
    features = backbone.get_layer("block7a_se").output
    pool = keras.Model(backbone.input, keras.layers.GlobalAveragePooling2D()(features))

    def photos(split, name, count):
        files = sorted((FLOWERS / split / name).iterdir())[:count]
        return np.stack([ke.data.images.prepare(Image.open(file), 224, 1.0) for file in files])

    train = np.concatenate([photos("train", name, 50) for name in names])
    labels = np.repeat([0, 1], 50)
    pooled = np.concatenate([pool(batch, training=False) for batch in np.split(train, 4)])
    scale = StandardScaler().fit(pooled)
    probe = LogisticRegression(C=0.01).fit(scale.transform(pooled), labels)
    weights = (probe.coef_[0] / scale.scale_).astype(np.float32)
    head = keras.layers.Dense(2, use_bias=False)
    model = keras.Model(backbone.input, head(pool.output))
    head.set_weights([np.stack([-weights, weights], 1)])

    explainer = explain.GradCAM(model, "block7a_se")
    pairs = list(zip(*(photos("val", name, 20) for name in names), strict=True))
    right = []
    for index, (sunflower, tulip) in enumerate(pairs):
        swapped = index % 2
        scene = np.hstack([tulip, sunflower] if swapped else [sunflower, tulip])
        for class_index in (0, 1):
            heatmap = explainer(scene, class_index)
            on_left = heatmap[:, :224].sum() / heatmap.sum()
            right.append(on_left > 0.5 if (class_index == swapped) else on_left < 0.5)
    assert np.mean(right) >= 0.9
