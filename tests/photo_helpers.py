"""Photos and the scores of a model on them, as a pytest plug-in."""

import keras
import numpy as np
import pytest
from PIL import Image

from keras_efficientnet.data import images


@pytest.fixture(scope="module")
def photos():
    """Of one size, [24, 72, 96, 3], so that resizing and cropping matter."""
    coarse = np.random.default_rng(1).integers(0, 256, (24, 6, 8, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(image).resize((96, 72))) for image in coarse])


@pytest.fixture(scope="module")
def model(model_files):
    return keras.saving.load_model(model_files["keras"], compile=False)


@pytest.fixture(scope="module")
def expected(model, photos):
    """Scores by `model.predict` of photos prepared as in evaluation."""
    prepared = [images.prepare(Image.fromarray(photo), 64, 0.875) for photo in photos]
    return model.predict(np.stack(prepared), verbose=0)
