"""The SavedModel as a server has it: TensorFlow alone, without this package."""

import io
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from image_helpers import real_photos
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import deploy
from keras_efficientnet.data import images
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.deploy.saved_model import prepare_encoded
from keras_efficientnet.description import read_description

NAMES = ("chat", "犬", "лиса", "naïve", "كلب", "sixth")
SIZE = 64


def encoded(photo, file_format="JPEG", orientation=None, size=(150, 110), mode=None, **options):
    image = Image.fromarray(photo).resize(size, Image.Resampling.BICUBIC)
    if mode:
        image = image.convert(mode)
    if orientation:
        exif = Image.Exif()
        exif[0x010F] = "a maker"  # an entry ahead of the orientation, as cameras write it
        exif[0x0112] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.fixture(scope="module")
def photos():
    return real_photos(SIZE, 24)


@pytest.fixture(scope="module")
def uploads(photos):
    """Files as clients send them."""
    small = {"size": (61, 83)}
    return {
        **{f"orientation {turn}": encoded(photos[turn], orientation=turn) for turn in range(1, 9)},
        "without": encoded(photos[9], quality=60),
        "small": encoded(photos[10], **small),
        "png": encoded(photos[11], "PNG"),
        "turned png": encoded(photos[12], "PNG", orientation=6),
        "alpha": encoded(photos[13], "PNG", mode="RGBA"),
        "grey": encoded(photos[14], "JPEG", mode="L"),
        "grey png": encoded(photos[15], "PNG", mode="L"),
        "palette": encoded(photos[16], "PNG", mode="P"),
        "large": encoded(photos[17], size=(1500, 1100)),
        "bmp": encoded(photos[18], "BMP"),
        "grey bmp": encoded(photos[19], "BMP", mode="L"),
        "bmp with alpha": encoded(photos[19], "BMP", mode="RGBA"),
        "webp": encoded(photos[19], "WEBP"),
        "progressive": encoded(photos[20], progressive=True, orientation=3),
    }


def test_files_are_prepared_as_in_evaluation(uploads):
    for name, content in uploads.items():
        for crop in (0.875, 1.0):
            expected = images.prepare(images.read(content), SIZE, crop).astype(int)
            difference = np.abs(prepare_encoded(content, SIZE, crop).numpy() - expected)
            # Pillow rounds and clips between its two passes, which shows at hard edges.
            assert difference.max() <= 6, name
            assert difference.mean() < 0.3, name


def test_files_that_tensorflow_shows_otherwise_are_refused(photos, uploads):
    wide = Image.fromarray(np.full((40, 40), 4000, np.uint16))
    file = io.BytesIO()
    wide.save(file, "PNG")
    bmp = uploads["bmp"]
    refused = {
        "palette": encoded(photos[0], "BMP", mode="P"),
        "two colours": encoded(photos[0], "BMP", mode="1"),
        "old header": bmp[:14] + (12).to_bytes(4, "little") + bmp[18:],
        "gif": encoded(photos[0], "GIF"),
        "12 of 16 bits": file.getvalue(),
        "a head alone": b"BM",
    }
    for name, content in refused.items():
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            prepare_encoded(content, SIZE, 1.0)
        why = "range is unknown" if name == "12 of 16 bits" else "send it as JPEG or PNG"
        assert why in str(caught.value), name
    full = io.BytesIO()
    Image.fromarray(np.full((40, 40), 60_000, np.uint16)).save(full, "PNG")
    assert prepare_encoded(full.getvalue(), SIZE, 1.0).shape == (SIZE, SIZE, 3)
    with pytest.raises(tf.errors.InvalidArgumentError, match="this model's pixel range"):
        prepare_encoded(full.getvalue(), SIZE, 1.0, takes_wide=False)


def test_an_orientation_in_the_other_order_of_bytes_is_found(photos):
    content = encoded(photos[0], orientation=6)
    start = content.index(b"Exif\0\0") + 6
    assert content[start : start + 2] == b"MM"
    maker = b"a maker\0"
    entries = [(0x010F, 2, len(maker), 38), (0x0112, 3, 1, 6)]
    little = b"II*\0" + (8).to_bytes(4, "little") + (2).to_bytes(2, "little")
    for tag, kind, count, value in entries:
        little += b"".join(
            number.to_bytes(length, "little")
            for number, length in ((tag, 2), (kind, 2), (count, 4), (value, 4))
        )
    little += bytes(4) + maker
    length = int.from_bytes(content[start - 8 : start - 6])
    other = content[: start - 8] + (len(little) + 8).to_bytes(2) + b"Exif\0\0" + little
    other += content[start - 8 + length :]
    assert images.read(other).size == images.read(content).size == (110, 150)
    np.testing.assert_array_equal(
        prepare_encoded(other, 32, 1.0), prepare_encoded(content, 32, 1.0)
    )


PLAIN_TENSORFLOW = """
import sys
sys.modules["keras"] = sys.modules["keras_efficientnet"] = None  # as if not installed
import json
import numpy as np, tensorflow as tf
folder, arrays, answers = sys.argv[1:]
loaded = tf.saved_model.load(folder)
data = np.load(arrays)
photos, scores = data["photos"], data["scores"]
for dtype, name in ((np.float32, "serving_default"), (np.uint8, "serve_uint8")):
    for count in (1, 5, 24):
        images = tf.constant(photos[:count].astype(dtype))
        got = loaded.signatures[name](images=images)["scores"].numpy()
        np.testing.assert_allclose(got, scores[:count], atol=1e-5)
        np.testing.assert_allclose(loaded.serve(images)["scores"], scores[:count], atol=1e-5)
uploads = [bytes(upload) for upload in np.load(arrays, allow_pickle=True)["uploads"]]
serve = loaded.signatures["serve_encoded"]
together = serve(encoded=tf.constant(uploads))
alone = serve(encoded=tf.constant(uploads[:1]))
np.testing.assert_allclose(alone["scores"], together["scores"][:1], atol=1e-5)
try:
    serve(encoded=tf.constant([b"no image"]))
except tf.errors.InvalidArgumentError:
    pass
else:
    raise AssertionError("took what is no image")
labels = [[label.decode() for label in row] for row in together["labels"].numpy()]
with open(answers, "w", encoding="utf-8") as file:
    json.dump({"labels": labels, "scores": together["scores"].numpy().tolist()}, file)
"""


def test_tensorflow_alone_serves_pixels_and_files(
    small, tell_apart, photos, uploads, run_python, tmp_path
):
    model = ke.EfficientNet(small, classes=6, input_shape=(SIZE, SIZE, 3))
    network = open_exportable(tell_apart(model, photos), {"class_names": NAMES})
    folder, arrays, answers = tmp_path / "served", tmp_path / "arrays.npz", tmp_path / "answers"
    deploy.export_saved_model(network, folder)
    scores = network.scores(photos)
    assert len(set(scores.argmax(1))) >= 4
    files = np.empty(len(uploads), object)
    files[:] = [np.frombuffer(content, np.uint8) for content in uploads.values()]
    np.savez(arrays, photos=photos, scores=scores, uploads=files)
    run_python(PLAIN_TENSORFLOW, folder, arrays, answers)
    served = json.loads(answers.read_text(encoding="utf-8"))
    prepared = [prepare_encoded(content, SIZE, 0.875) for content in uploads.values()]
    same = []
    for content, labels, found, row in zip(
        uploads.values(),
        served["labels"],
        served["scores"],
        network.scores(np.stack(prepared)),
        strict=True,
    ):
        best = np.argsort(-row)[:5]
        assert labels == [NAMES[index] for index in best]
        np.testing.assert_allclose(found, row[best], atol=1e-5)
        evaluated = images.prepare(images.read(content), SIZE, 0.875)
        same.append(labels[0] == NAMES[network.scores(evaluated[None]).argmax()])
    assert np.mean(same) >= 0.9
    assert len({labels[0] for labels in served["labels"]}) >= 3


@pytest.mark.slow
def test_features_are_served_and_preprocessing_outside_concerns_floats_only(
    small, randomize, photos, uploads, tmp_path
):
    options = {"include_top": False, "input_shape": (SIZE, SIZE, 3)}
    inside = randomize(ke.EfficientNet(small, **options), photos[:8])
    outside = ke.EfficientNet(small, include_preprocessing=False, **options, name="B0")
    outside.set_weights(inside.get_weights())
    deploy.export_saved_model(outside, tmp_path / "served")
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    expected = inside.predict(photos, verbose=0)
    tolerance = 1e-4 * np.ptp(expected)
    served = loaded.serve(tf.constant(photos))["features"]
    np.testing.assert_allclose(served, expected, atol=tolerance)
    description = read_description(tmp_path / "served")
    assert description
    floats = description.network_input(photos)
    served = loaded.signatures["serving_default"](images=tf.constant(floats))["features"]
    np.testing.assert_allclose(served, expected, atol=tolerance)
    (served,) = loaded.serve_encoded(tf.constant([uploads["png"]])).values()
    alone = inside.predict(prepare_encoded(uploads["png"], SIZE, 0.875)[None], verbose=0)
    np.testing.assert_allclose(served, alone, atol=tolerance)


def test_files_are_not_served_where_images_have_other_channels(tmp_path):
    image = keras.Input((32, 32, 4))
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(image))
    deploy.export_saved_model(model, tmp_path / "served")
    loaded = tf.saved_model.load(str(tmp_path / "served"))
    assert set(loaded.signatures) == {"serving_default", "serve_uint8"}
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 4), np.uint8)
    np.testing.assert_allclose(
        loaded.serve(tf.constant(pixels))["scores"], pixels.mean((1, 2)), rtol=1e-5
    )


def test_the_file_holds_the_network_once(model_files):
    size = (model_files["saved_model"] / "saved_model.pb").stat().st_size
    weights = sum(
        file.stat().st_size for file in (model_files["saved_model"] / "variables").iterdir()
    )
    assert weights < 1.1 * model_files["float32"].stat().st_size + 50_000
    assert size < 1_500_000


def test_a_keras_file_has_nothing_that_training_left(small, tmp_path):
    model = ke.EfficientNet(small, input_shape=(32, 32, 3), classes=3)
    deploy.save_keras(model, tmp_path / "new.keras")
    model.compile("adam", "sparse_categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    deploy.save_keras(model, tmp_path / "trained.keras")
    sizes = [(tmp_path / name).stat().st_size for name in ("new.keras", "trained.keras")]
    assert sizes[1] == pytest.approx(sizes[0], rel=0.01)
    loaded = keras.saving.load_model(tmp_path / "trained.keras")
    assert not loaded.compiled
    assert model.optimizer  # training can go on
    for one, other in zip(model.get_weights(), loaded.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
