"""The examples, run as their own documents say, on little."""

import importlib
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def photos(tmp_path):
    """Three classes told apart by their colour, in noise."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("red", "green", "blue")):
        for split, count in (("train", 24), ("val", 8)):
            folder = tmp_path / "photos" / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 120, (40, 40, 3))
                pixels[:, :, label] += 100
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index}.png")
    return tmp_path / "photos"


@pytest.fixture
def run(photos, small, tmp_path, monkeypatch):
    """Calls an example with the smallest net as one more variant, and returns its figures."""
    monkeypatch.syspath_prepend(EXAMPLES)
    monkeypatch.setitem(ke.spec.VARIANTS, "tiny", small)

    def run(name, *options):
        figures = tmp_path / "figures.json"
        arguments = [name, "--data", f"folder:{photos}", "--json", figures, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, arguments)))
        before = keras.config.dtype_policy()
        try:
            importlib.import_module(name).main()
        finally:
            keras.config.set_dtype_policy(before)
        return json.loads(figures.read_text(encoding="utf-8"))

    return run


@pytest.mark.slow
def test_progressive_training(run, capsys):
    figures = run(
        "progressive_training",
        *("--model", "tiny", "--image-size", 48, "--first-size", 16, "--stages", 2),
        *("--epochs", 2, "--train-images", 66, "--test-images", 12),
    )
    fixed, progressive = figures["runs"]
    assert [row["image_size"] for row in fixed["history"]] == [48, 48]
    assert [row["image_size"] for row in progressive["history"]] == [32, 48]
    assert fixed["accuracy"] == fixed["history"][-1]["val_accuracy"]
    printed = capsys.readouterr().out
    assert "stage 1: 1 epochs at 32 px" in printed
    assert "1.00x" in printed


@pytest.mark.slow
def test_fine_tuning(run, small, tmp_path, capsys):
    weights = tmp_path / "some.weights.h5"
    ke.EfficientNet(small, classes=7).save_weights(weights)  # another head: it starts fresh
    reports = run(
        "fine_tuning",
        *("--model", "tiny", "--weights", weights, "--image-size", 32, "--epochs", 2),
    )
    pretrained, scratch = (reports[name]["settings"] for name in ("pretrained", "scratch"))
    assert (pretrained["weights"], scratch["weights"]) == (str(weights), None)
    for settings in (pretrained, scratch):
        assert (settings["recipe"]["epochs"], settings["recipe"]["batch_size"]) == (2, 32)
    accuracies = {file["name"]: file["accuracy"] for file in reports["scratch"]["export"]["files"]}
    assert f"{100 * accuracies['model.keras']:.1f} %" in capsys.readouterr().out


@pytest.mark.slow
def test_compare_with_resnet50(run, capsys):
    figures = run(
        "compare_with_resnet50",
        *("--train-images", 30, "--test-images", 12, "--image-size", 32),
        *("--epochs", 1, "--batch-size", 15),
    )
    ours, theirs = figures["results"]
    assert ours["parameters"] == ke.EfficientNetB0(weights=None, classes=3).count_params()
    # The counts of the papers, for 1,000 classes at 224 px, less 997 of those classes.
    assert theirs["parameters"] == 25_636_712 - 997 * (2048 + 1)
    assert theirs["multiply_adds"] > 5 * ours["multiply_adds"]
    assert "30 training and 12 held-out images of 32 px, 1 epochs" in capsys.readouterr().out
