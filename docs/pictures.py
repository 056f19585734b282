"""Draws the pictures of the documentation, from published figures and from a run.

    keras-efficientnet train
    python docs/pictures.py

The run is that of the README's first command, on handwritten digits. The two photographs are
those that come with scikit-learn (CC BY 2.0).
"""

import argparse
import csv
from pathlib import Path

import numpy as np
from sklearn.datasets import load_sample_images

import keras_efficientnet as ke
from keras_efficientnet import plots, study
from keras_efficientnet.data.dataset import ArrayExamples, Dataset
from keras_efficientnet.report import read_report


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, default=Path("saved_models/digits-b0"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "pictures")
    options = parser.parse_args()
    if not (options.run / "history.csv").is_file():
        parser.error(f"{options.run} is not a finished run; run keras-efficientnet train first.")
    options.output.mkdir(exist_ok=True)

    networks = study.published_networks()
    drawings = {
        "size": plots.size_against_accuracy(networks),
        "cost": plots.cost_against_accuracy(networks),
        "scaling": plots.scaling_curves(study.compound_scales()),
        "schedule": plots.learning_rate_schedule(
            ke.training.learning_rates(ke.training.recipe("paper"))
        ),
        "history": plots.learning_curves(history(options.run)),
        "confusion": confusion(options.run),
    }
    for name, figure in drawings.items():
        (options.output / f"{name}.svg").write_text(plots.to_svg(figure), encoding="utf-8")
    samples = augmentation()
    for theme in plots.THEMES:
        with plots.theme(theme):
            figure = plots.augmentation_samples(*samples)
        figure.savefig(options.output / f"augmentation-{theme}.jpg", dpi=80)


def history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def confusion(run: Path) -> plots.Picture:
    found = read_report(run / "report.json").evaluation
    return plots.confusion_matrix(found.matrix, found.class_names)


def augmentation() -> tuple[np.ndarray, np.ndarray]:
    photos = np.stack(load_sample_images().images)
    examples = ArrayExamples(photos, np.arange(len(photos)))
    data = Dataset("photos", "photos", ("pagoda", "flower"), examples, examples, 0.875, True)
    return ke.data.augmented(data, 160, ke.training.recipe("paper").augmentation)


if __name__ == "__main__":
    main()
