"""The command `evaluate`: a table or JSON, and what it says of the data."""

import json

import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke

pytest_plugins = "cli_helpers"

NAMES = ("chat", "лиса", "犬")


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for name in NAMES:
            (root / split / name).mkdir(parents=True)
            for index in range(4):
                pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
                Image.fromarray(pixels).resize((90, 70)).save(root / split / name / f"{index}.png")
    return root


def test_results_as_json_and_as_a_table(command, model_files, photos):
    arguments = ("evaluate", model_files["float32"], "--data", f"folder:{photos}")
    code, out, err = command(*arguments, "--json")
    assert code == 0, err
    assert "12 training images and 12 held-out images (folders train and test)." in err
    result = json.loads(out)
    predictor = ke.Predictor(model_files["float32"])
    right = {
        name: [
            predictor.classify(path).label == name for path in (photos / "test" / name).iterdir()
        ]
        for name in NAMES
    }
    assert result["images"] == 12
    assert result["accuracy"] == pytest.approx(np.mean(list(right.values())))
    assert result["top5_accuracy"] is None
    assert {name: row["accuracy"] for name, row in result["classes"].items()} == pytest.approx(
        {name: np.mean(values) for name, values in right.items()}
    )
    wrong = 12 - sum(map(sum, right.values()))
    assert sum(row["images"] for row in result["confusions"]) == wrong
    code, out, _ = command(*arguments)
    assert code == 0
    for name in (*NAMES, "all", "taken for"):
        assert name in out


def test_options_of_the_data_reach_it(command, model_files, photos):
    arguments = ("evaluate", model_files["float32"], "--data")
    code, _, err = command(*arguments, f"folder:{photos}", "--classes-are-folders")
    assert code == 2
    assert "The data's class 'test' is not among the model's" in err
    code, _, err = command(*arguments, "digits", "--test-split", "test")
    assert code == 2
    assert "Split names go with tfds:NAME data" in err
