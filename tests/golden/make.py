"""Makes the files beside it, which later versions must load.

    python tests/golden/make.py

It runs with the oldest Keras that pyproject.toml admits, because Keras does not read what a newer
one has saved. The network has random weights, two classes and every kind of layer that the package
has.
"""

import dataclasses
import shutil
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_efficientnet as ke
from keras_efficientnet import deploy
from keras_efficientnet.description import ModelDescription

HERE = Path(__file__).parent
SIZE = 32
NAMES = ("chat", "犬")


def network() -> keras.Model:
    """The smallest network with a skip, both kinds of blocks and squeeze-and-excitation."""
    stages = (
        ke.spec.StageSpec("fused_mbconv", 2, 3, 2, 8, 8, 1, se_ratio=0.0),
        ke.spec.StageSpec("mbconv", 2, 3, 1, 8, 8, 1),
    )
    variant = dataclasses.replace(
        ke.spec.VARIANTS["B0"],
        name="golden",
        stages=stages,
        stem_filters=8,
        head_filters=16,
        resolution=SIZE,
    )
    model = ke.EfficientNet(variant, classes=len(NAMES))
    rng = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name in ("moving_variance", "gamma"):
            weight.assign(rng.uniform(0.5, 1.5, weight.shape))
        elif weight.name != "seed_generator_state":
            scale = 2 * np.prod(weight.shape[:-1]) ** -0.5 if len(weight.shape) > 1 else 0.2
            weight.assign(rng.normal(0, scale, weight.shape))
    return model


def main() -> None:
    """Writes the model in every format, and what it gives for some images."""
    model = network()
    description = ModelDescription("golden", NAMES, SIZE, 1.0, license="Apache-2.0")
    images = np.random.default_rng(1).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        deploy.save_keras(model, made / "model.keras", description)
        model.save_weights(made / "model.weights.h5")
        deploy.export_tflite(model, made / "model.tflite", description)
        scores = model.predict(images, verbose=0)
        np.savez_compressed(made / "expected.npz", images=images, scores=scores)
        for path in made.iterdir():
            shutil.copy(path, HERE)


if __name__ == "__main__":
    main()
