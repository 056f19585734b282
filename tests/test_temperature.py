import numpy as np
import pytest
from scipy.special import softmax

import keras_efficientnet as ke
from keras_efficientnet.training import expected_calibration_error, fit_temperature
from keras_efficientnet.training.temperature import divide_logits


@pytest.fixture(scope="module")
def honest():
    """Logits whose probabilities are those that labels were drawn with."""
    rng = np.random.default_rng(0)
    logits = 2 * rng.normal(size=(4000, 5))
    probabilities = softmax(logits, -1)
    labels = np.array([rng.choice(5, p=each) for each in probabilities])
    return logits, labels


@pytest.mark.parametrize("temperature", [0.25, 1.0, 3.0])
def test_a_temperature_is_found_again(honest, temperature):
    logits, labels = honest
    assert fit_temperature(logits * temperature, labels) == pytest.approx(temperature, rel=0.06)


def test_calibration_error_is_what_it_says(honest):
    logits, labels = honest
    assert expected_calibration_error(softmax(logits, -1), labels) < 0.03
    assert expected_calibration_error(softmax(10 * logits, -1), labels) > 0.2
    # Four images with confidence 0.8 of which half are right, and one with 1.0 that is.
    probabilities = np.array([[0.8, 0.2]] * 4 + [[0.0, 1.0]])
    error = expected_calibration_error(probabilities, np.array([0, 0, 1, 1, 1]))
    assert error == pytest.approx(4 / 5 * 0.3)


def test_dividing_logits_changes_probabilities_and_no_decision(small):
    model = ke.EfficientNet(small, input_shape=(40, 40, 3), classes=5)
    images = np.random.default_rng(0).integers(0, 256, (6, 40, 40, 3), np.uint8)
    before = model.predict(images, verbose=0)
    divide_logits(model, 0.1)
    after = model.predict(images, verbose=0)
    np.testing.assert_allclose(after, softmax(10 * np.log(before), -1), rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(before.argmax(-1), after.argmax(-1))
