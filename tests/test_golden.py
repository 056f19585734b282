"""Files that an earlier version saved must load, and give what they gave then.

`golden/make.py` has made them. A change that makes these tests fail breaks users' files.
"""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_efficientnet as ke
from keras_efficientnet.description import ModelDescription, read_description

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def expected():
    with np.load(GOLDEN / "expected.npz") as arrays:
        return arrays["images"], arrays["scores"]


@pytest.mark.parametrize("file", ["model.keras", "model.tflite"])
def test_a_saved_model_gives_the_same_scores(expected, file):
    images, scores = expected
    predictor = ke.Predictor(GOLDEN / file)
    assert np.ptp(scores) > 0.5
    np.testing.assert_allclose(predictor.scores(images), scores, atol=1e-5)


def test_saved_weights_go_into_the_model(expected):
    images, scores = expected
    model = keras.saving.load_model(GOLDEN / "model.keras", compile=False)
    for weight in model.weights:
        if "seed" not in weight.name:
            weight.assign(keras.ops.zeros_like(weight))
    model.load_weights(GOLDEN / "model.weights.h5")
    found = np.asarray(keras.ops.convert_to_numpy(model(images)))
    np.testing.assert_allclose(found, scores, atol=1e-5)


@pytest.mark.parametrize("file", ["model.keras", "model.tflite"])
def test_a_description_says_what_it_said(file):
    expected = ModelDescription(
        "golden", ("chat", "犬"), 32, 1.0, (0.0,), (1.0,), license="Apache-2.0"
    )
    assert read_description(GOLDEN / file) == expected
