import os

# TensorFlow reads this once, when it is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import subprocess
import sys

import hypothesis
import keras
import numpy as np
import pytest

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
def randomize():
    """Gives every weight of a model a value that matters, moving statistics included.

    Fresh batch normalization hides mistakes: a mean of 0 and a variance of 1 change nothing.
    """

    def randomize(model, seed=0):
        rng = np.random.default_rng(seed)
        for weight in model.weights:
            if "seed_generator" in weight.path:
                continue
            if weight.name in ("gamma", "moving_variance"):
                value = rng.uniform(0.5, 1.5, weight.shape)
            elif weight.name in ("beta", "moving_mean", "bias"):
                value = rng.normal(0, 0.2, weight.shape)
            else:
                fan_in = np.prod(weight.shape[:2]) if "dwconv" in weight.path else None
                fan_in = fan_in or np.prod(weight.shape[:-1])
                value = rng.normal(0, np.sqrt(2 / fan_in), weight.shape)
            weight.assign(value.astype("float32"))
        return model

    return randomize


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
