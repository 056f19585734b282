"""Quantization-aware fine-tuning."""

import keras
import numpy as np
import pytest
from test_int8_search import classifier, doubtful, float_content, pictures

from keras_efficientnet.deploy import quantization_aware
from keras_efficientnet.deploy.int8_quantizer import plain_int8, run


@pytest.fixture(scope="module")
def model(small, randomize):
    return classifier(small, randomize)


def test_rounding_is_that_of_a_file(model):
    """The training graph's error is of the size of the file's, and not zero."""
    images = pictures(32, 2)
    rounded = quantization_aware.FakeQuantized(model, images)
    expected = np.asarray(model(images))
    found = np.asarray(rounded(images))
    assert 1e-4 < np.abs(found - expected).mean() < 0.05
    # Every kernel is rounded, those inside of squeeze-and-excitation too.
    convolutions = [layer for layer in model.layers if "conv" in layer.name]
    squeezes = [layer for layer in model.layers if layer.name.endswith("_se")]
    assert len(rounded.kernels) == len(convolutions) + 2 * len(squeezes) + 1


def test_kernels_have_256_steps_a_channel():
    kernel = keras.ops.convert_to_tensor(
        np.random.default_rng(0).normal(0, 1, (3, 3, 8, 5)).astype(np.float32)
    )
    rounded = np.asarray(quantization_aware.fake_quantize_kernel(kernel, 3))
    for channel in range(5):
        step = np.abs(np.asarray(kernel)[..., channel]).max() / 127
        steps = rounded[..., channel] / step
        np.testing.assert_allclose(steps, np.round(steps), atol=1e-3)
        assert np.abs(steps).max() <= 127.001


def test_fine_tuning_beats_quantization_after_training(model, tmp_path, monkeypatch):
    # Random weights take larger steps than trained ones.
    monkeypatch.setattr(quantization_aware, "PEAK_LEARNING_RATE", 1e-4)
    images = pictures(48, 2)
    content = float_content(model, tmp_path)
    check = doubtful(content, 64)
    expected = run(content, check)

    def error(network):  # the divergence that fine-tuning lowers, in the file
        scores = run(plain_int8(network, images), check)
        return (expected * np.log((expected + 1e-6) / (scores + 1e-6))).sum(-1).mean()

    before = [np.array(value) for value in model.get_weights()]
    tuned = quantization_aware.fine_tune(model, images, epochs=12, range_images=images)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [w.path for w in tuned.weights] == [w.path for w in model.weights]
    assert error(float_content(tuned, tmp_path)) < 0.9 * error(content)  # it is 0.6 times
