import os

# TensorFlow reads this once, when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import dataclasses
import subprocess
import sys

import hypothesis
import keras
import numpy as np
import pytest

import keras_efficientnet as ke

# Deadlines measure the machine, not the code; a fixed draw makes a failure repeatable.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True)
hypothesis.settings.load_profile("tests")


@pytest.fixture(autouse=True)
def _fixed_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture(autouse=True, scope="module")
def _flat_memory():
    yield
    keras.backend.clear_session()


@pytest.fixture
def policy():
    """Sets the global dtype policy for one test."""
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


@pytest.fixture
def channels_first():
    """Sets the layout for one test."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    yield
    keras.config.set_image_data_format(before)


@pytest.fixture(scope="session")
def small():
    """All stages of B0 with fewer channels and blocks: quick to build, and it has a skip."""
    b0 = ke.spec.VARIANTS["B0"]
    return dataclasses.replace(b0, name="small", width=0.25, depth=0.3, resolution=64)


@pytest.fixture(scope="session")
def randomize():
    """Gives every weight of a model a random value that matters, moving statistics included.

    Fresh batch normalization hides mistakes: a mean of 0 and a variance of 1 change nothing.
    The statistics are drawn around those of a batch of images. Far from them a deep network
    is chaotic, and turns the last digit of float32 into any error.
    """

    def randomize(model, images=None):
        rng = np.random.default_rng(1)
        for weight in model.weights:
            if weight.name == "gamma":
                value = rng.uniform(0.5, 1.5, weight.shape)
            elif weight.name in ("beta", "bias"):
                value = rng.normal(0, 0.2, weight.shape)
            elif weight.name == "kernel":
                area = weight.shape[:2] if "dwconv" in weight.path else weight.shape[:-1]
                value = rng.normal(0, np.prod(area) ** -0.5, weight.shape)
            else:
                continue
            weight.assign(value)
        for number, layer in enumerate(model.layers):
            if generator := getattr(layer, "seed_generator", None):
                generator.state.assign((1, number))

        norms = [layer for layer in model.layers if isinstance(layer, ke.layers.BatchNormalization)]
        momentum = norms[0].momentum
        for norm in norms:
            norm.momentum = 0.0
        if images is None:
            images = rng.uniform(0, 255, (4, *(size or 64 for size in model.input_shape[1:])))
        model(images, training=True)
        for norm in norms:
            norm.momentum = momentum
            variance = np.asarray(keras.ops.convert_to_numpy(norm.moving_variance))
            # A channel that hardly varies in these few images must not be blown up.
            variance = (variance + variance.mean()) / 2
            shift = rng.normal(0, 0.2, variance.shape) * np.sqrt(variance)
            norm.moving_mean.assign(norm.moving_mean + shift)
            norm.moving_variance.assign(variance * rng.uniform(0.8, 1.6, variance.shape))
        return model

    return randomize


@pytest.fixture(scope="session")
def tell_apart(randomize):
    """Gives a classifier weights with which it takes images for different classes.

    The classes are both ends of the axes along which the images' features differ most.
    """

    def tell_apart(model, images, random=True):
        if random:
            randomize(model, images[:8])
        else:  # the initial weights, with the statistics of the images
            norms = [
                layer for layer in model.layers if isinstance(layer, ke.layers.BatchNormalization)
            ]
            for norm in norms:
                norm.momentum = 0.0
            model(images[:8], training=True)
        head = model.layers[-1]
        features = keras.Model(model.input, head.input).predict(images, verbose=0)
        mean = features.mean(0)
        axes = np.linalg.svd(features - mean, full_matrices=False)[2][: (head.units + 1) // 2]
        axes /= np.std((features - mean) @ axes.T, axis=0)[:, None]
        kernel = 2 * np.concatenate([axes, -axes])[: head.units].T
        head.set_weights([kernel, -mean @ kernel])
        return model

    return tell_apart


@pytest.fixture(scope="session")
def run_python():
    """Runs code in a fresh interpreter, with warnings as errors, and returns what it prints."""

    def run_python(code, *arguments, **environment):
        result = subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout.strip()

    return run_python


@pytest.fixture(scope="session")
def model_files(tmp_path_factory, small, randomize):
    """One small classifier of three classes at 64 px in every format, by its suffix."""
    folder = tmp_path_factory.mktemp("model-files")
    model = randomize(ke.EfficientNet(small, classes=3, input_shape=(64, 64, 3)))
    description = ke.ModelDescription("small", ("chat", "犬", "лиса"), 64, 0.875)
    paths = {
        "keras": folder / "model.keras",
        "saved_model": folder / "saved_model",
        "float32": folder / "float32.tflite",
        "int8": folder / "int8.tflite",
    }
    calibration = np.random.default_rng(2).integers(0, 256, (8, 64, 64, 3), np.uint8)
    ke.deploy.save_keras(model, paths["keras"], description)
    ke.deploy.export_saved_model(model, paths["saved_model"], description)
    ke.deploy.export_tflite(model, paths["float32"], description)
    ke.deploy.export_tflite(model, paths["int8"], description, "int8", calibration)
    return paths
