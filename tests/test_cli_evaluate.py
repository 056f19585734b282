"""The command `evaluate`: a table or JSON, and what it says of the data."""

import dataclasses
import json
import shutil
import warnings

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


def test_the_split_is_the_one_asked_for_and_named(command, model_files, photos, tmp_path):
    arguments = ("evaluate", model_files["float32"], "--data", f"folder:{photos}", "--json")
    for split, count in ((None, 12), ("train", 12), ("test", 12), ("all", 24)):
        code, out, err = command(*arguments, *(("--split", split) if split else ()))
        assert (code, json.loads(out)["images"]) == (0, count)
        which = "all images" if split == "all" else f"the images of the split {split or 'test'}"
        assert f"Evaluated on {which}: {count}." in err
    code, _, err = command(*arguments, "--split", "val")
    assert code == 2
    assert "split='val' must be one of train, test, all" in err


def test_data_without_splits_are_all_evaluated_but_those_trained_on(model_files, photos):
    data = ke.data.load(f"folder:{photos / 'train'}")
    assert data.holdout == 0.2
    predictor = ke.Predictor(model_files["float32"])
    assert ke.deploy.unseen_split(predictor, data) == "all"
    known = dataclasses.replace(predictor.description, listing=data.listing)
    predictor.description = known
    assert ke.deploy.unseen_split(predictor, data) == "test"
    assert ke.deploy.unseen_split(predictor, ke.data.load("digits")) == "test"


def test_data_are_known_by_what_they_are_and_not_by_where(photos, tmp_path):
    data = ke.data.load(f"folder:{photos}")
    shutil.copytree(photos, tmp_path / "elsewhere")
    assert ke.data.load(f"folder:{tmp_path / 'elsewhere'}").listing == data.listing
    (tmp_path / "elsewhere" / "train" / NAMES[0] / "0.png").unlink()
    assert ke.data.load(f"folder:{tmp_path / 'elsewhere'}").listing != data.listing
    assert ke.data.load("digits").listing == ""


def test_published_weights_know_imagenets_folders(command, tmp_path, monkeypatch):
    """Which are called by WordNet IDs, or here by the classes' names."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    synsets = list(ke.weights.imagenet_synsets())
    assert synsets == sorted(synsets)
    assert (synsets[281], ke.weights.imagenet_synsets()["n02123045"]) == ("n02123045", "tabby")
    for name in ("n01440764", "tabby"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for index in range(2):
            pixels = np.full((80, 90, 3), 60 * index, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "photos" / name / f"{index}.png")
    data = f"folder:{tmp_path / 'photos'}"
    code, out, err = command("evaluate", "imagenet", "--data", data, "--json")
    assert code == 0, err
    assert {name: row["images"] for name, row in json.loads(out)["classes"].items()} == {
        "tench": 2,
        "tabby": 2,
    }
    code, _, err = command("evaluate", "imagenette", "--data", data)
    assert code == 2
    assert "'imagenette' does not exist" in err


def test_a_guessed_size_is_said(command, photos, tmp_path):
    path = tmp_path / "model.keras"
    ke.EfficientNetLite1(input_shape=(None, None, 3), classes=3).save(path)
    with pytest.warns(UserWarning, match="240 px are used"):
        code, _, _ = command("evaluate", path, "--data", f"folder:{photos}")
    assert code == 0
    assert warnings.formatwarning("So.", UserWarning, "file.py", 1) == "Warning: So.\n"
    code, _, _ = command("evaluate", path, "--data", f"folder:{photos}", "--image-size", 64)
    assert code == 0
