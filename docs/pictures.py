"""Draws the pictures of the documents again, from published figures and from a run.

    keras-efficientnet train
    python docs/pictures.py

The run is that of the README's first command, on handwritten digits. The two photographs are
those that come with scikit-learn (CC BY 2.0).
"""

import argparse
import csv
import dataclasses
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

import keras_efficientnet as ke
from keras_efficientnet import explain, plots, study
from keras_efficientnet.data.dataset import ArrayExamples, DataSet
from keras_efficientnet.data.pipeline import evaluation_arrays

SCENE = 160  # pixels, of which the feature map makes 5 x 5 places


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("saved_models/digits-b0"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures")
    options = parser.parse_args()
    if not (options.run / "history.csv").is_file():
        parser.error(f"{options.run} holds no run; run keras-efficientnet train first.")
    options.output.mkdir(exist_ok=True)

    networks = study.published_networks()
    drawings = {
        "size": plots.size_against_accuracy(networks),
        "cost": plots.cost_against_accuracy(networks),
        "scaling": plots.scaling_curves(study.compound_scales()),
        "schedule": plots.learning_rate_schedule(ke.training.recipe("paper").learning_rates()),
        "history": plots.learning_curves(history(options.run)),
        "confusion": confusion(options.run),
    }
    for name, figure in drawings.items():
        (options.output / f"{name}.svg").write_text(plots.to_svg(figure), encoding="utf-8")
    samples, explanations = augmentation(), explained()
    for theme in plots.THEMES:
        with plots.theme(theme):
            photographs = {
                "augmentation": plots.augmentation_samples(*samples),
                "explained": plots.grad_cam(*explanations),
            }
        for name, figure in photographs.items():
            figure.savefig(options.output / f"{name}-{theme}.jpg", dpi=80)


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def confusion(run: Path) -> plots.Picture:
    data = ke.data.load("digits")
    images, labels = evaluation_arrays(data.test, data.image_size, 1.0, len(data.test))
    predicted = ke.Predictor(run / "model_float32.tflite").scores(images).argmax(1)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (labels, predicted), 1)
    return plots.confusion_matrix(counts, data.class_names)


def augmentation() -> tuple[np.ndarray, np.ndarray]:
    photos = np.stack(load_sample_images().images)
    examples = ArrayExamples(photos, np.arange(len(photos)))
    data = DataSet("photos", "photos", ("china", "flower"), examples, examples, 0.875, True)
    used = ke.training.recipe("paper").augmentation
    return ke.data.augmented(data, 160, used)


def explained() -> tuple[list, list, list]:
    """Trains a small network on single digits in noise, and asks it about scenes of two.

    Takes some minutes.
    """
    digits = ke.data.load("digits")
    rng = np.random.default_rng(0)
    pixels, labels = single_digits(digits.train, 2, rng)
    held_out = single_digits(digits.test, 1, rng)
    examples = ArrayExamples(pixels, labels)
    data = DataSet("scenes", "scenes", digits.class_names, examples, examples, 1.0, False)
    b0 = ke.spec.VARIANTS["B0"]
    small = dataclasses.replace(b0, name="scenes", width=0.5, depth=0.5, batch_norm_momentum=0.9)
    model = ke.EfficientNet(small, classes=10, input_shape=(SCENE, SCENE, 3))
    recipe = ke.training.recipe("small", epochs=16, min_crop_area=0.8)
    rows = ke.training.fit(model, data, recipe, image_size=SCENE, held_out=held_out)
    print(f"Single digits held out: {100 * rows[-1]['val_accuracy']:.1f} % right.")

    explainer = explain.GradCAM(model)
    tests = {label: np.asarray(image) for image, label in digits.test}
    pairs = [(3, 7), (0, 4), (6, 2)]
    scenes = []
    for first, second in pairs:
        scene = noise(rng)
        place(scene, tests[first], (8, 8))
        place(scene, tests[second], (SCENE - 56, SCENE - 56))
        scenes.append(scene)
    heatmaps = [
        [explainer(scene, index) for index in pair]
        for scene, pair in zip(scenes, pairs, strict=True)
    ]
    return scenes, heatmaps, ["speaks for 3, 0, 6", "speaks for 7, 4, 2"]


def single_digits(examples, copies: int, rng) -> tuple[np.ndarray, np.ndarray]:
    scenes = []
    for _ in range(copies):
        for image, _ in examples:
            scene = noise(rng)
            place(scene, np.asarray(image), rng.integers(0, SCENE - 48, 2))
            scenes.append(scene)
    return np.stack(scenes), np.tile(examples.labels, copies)


def noise(rng) -> np.ndarray:
    coarse = Image.fromarray(rng.integers(0, 110, (16, 16, 3), np.uint8))
    return np.array(coarse.resize((SCENE, SCENE), Image.Resampling.BICUBIC))


def place(scene: np.ndarray, digit: np.ndarray, corner) -> None:
    top, left = corner
    part = scene[top : top + 48, left : left + 48]
    np.maximum(part, digit, out=part)


if __name__ == "__main__":
    main()
