"""The command `evaluate`: a table or JSON, and what it says of the data."""

import dataclasses
import json
import re
import shutil
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet.deploy.evaluation import Tally

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
    assert "12 held-out images (folders train and test)." in err
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


@pytest.fixture
def unsplit(photos):
    return f"folder:{photos / 'train'}"


def of(predictor, **fields):
    """The same model, which says this of itself."""
    predictor.description = dataclasses.replace(predictor.description, **fields)
    return predictor


def test_data_without_splits_are_all_evaluated_but_those_trained_on(model_files, photos, unsplit):
    load = ke.deploy.load_measured
    predictor = ke.Predictor(model_files["float32"])
    assert load(predictor, unsplit).summary.images == {"all": 12}
    data = ke.data.load(unsplit, holdout=0.5)
    of(predictor, listing=data.listing, holdout=data.holdout)
    measured = load(predictor, unsplit)
    assert measured.summary.images == {"test": 6}
    assert measured.test.paths == data.test.paths  # those that were held out then
    assert load(predictor, unsplit, "train").train.paths == data.train.paths
    assert load(predictor, unsplit, "all").summary.images == {"all": 12}
    with pytest.raises(ke.InputError, match=r"with holdout=0.5; leave holdout=0.2 out"):
        load(predictor, unsplit, holdout=0.2)
    assert load(predictor, "digits").summary.images == {"test": 360}


def test_groups_that_were_held_out_are_known(model_files, photos, unsplit, tmp_path):
    shutil.copytree(photos / "train", tmp_path / "data")
    source, by = f"folder:{tmp_path / 'data'}", r"(\d)\.png"
    data = ke.data.load(source, group_by=by)
    predictor = of(
        ke.Predictor(model_files["float32"]),
        **{name: getattr(data, name) for name in ("listing", "holdout", "group_by")},
    )
    assert ke.deploy.load_measured(predictor, source).test.paths == data.test.paths
    with pytest.raises(ke.InputError, match=r"with group_by='.*'; leave group_by='parent' out"):
        ke.deploy.load_measured(predictor, source, group_by="parent")


@pytest.mark.parametrize("split", ["val", "train", "all", None])
def test_only_what_is_measured_is_opened(command, model_files, photos, tmp_path, split):
    shutil.copytree(photos / "train", tmp_path / "train")
    shutil.copytree(photos / "test", tmp_path / "val")
    unseen = "val" if split == "train" else "train"
    for path in (tmp_path / unseen / NAMES[0]).iterdir():
        path.write_bytes(b"no image")
    arguments = ("evaluate", model_files["float32"], "--data", f"folder:{tmp_path}", "--json")
    code, out, err = command(*arguments, *(("--split", split) if split else ()))
    if split == "all":
        assert code == 2
        assert "has no image that can be read" in err
        return
    kind = {"train": "training", "val": "validation", None: "validation"}[split]
    assert (code, json.loads(out)["images"]) == (0, 12)
    assert f"12 {kind} images (folders train and val)." in err
    assert f"Evaluated on the images of the split {split or 'val'}: 12." in err
    code, _, err = command(*arguments, "--split", "test")
    assert (code, "split='test' must be one of train, val, all" in err) == (2, True)


def test_little_is_enough_to_evaluate_on(command, model_files, photos, tmp_path):
    """A folder of one class, one image of a class, rows that are all of one split."""
    (tmp_path / "one" / NAMES[1]).mkdir(parents=True)
    shutil.copy(photos / "test" / NAMES[1] / "0.png", tmp_path / "one" / NAMES[1])
    rows = "".join(f"{photos}/test/{name}/0.png,{name},Testing\n" for name in NAMES[:2])
    (tmp_path / "rows.csv").write_text("path,label,split\n" + rows, encoding="utf-8")
    for name in NAMES:
        shutil.copytree(photos / "test" / name, tmp_path / "splits" / "val" / name)
        shutil.copytree(photos / "test" / name, tmp_path / "splits" / "test" / name)
    for source, count, which in (
        (f"folder:{tmp_path / 'one'}", 1, "all images"),
        (f"csv:{tmp_path / 'rows.csv'}", 2, "the images of the split test"),
        (f"folder:{tmp_path / 'splits'}", 12, "the images of the split test"),
    ):
        code, out, err = command("evaluate", model_files["int8"], "--data", source, "--json")
        assert (code, json.loads(out)["images"]) == (0, count), err
        assert f"Evaluated on {which}: {count}." in err
    code, _, err = command(
        "evaluate", model_files["int8"], "--data", f"folder:{photos / 'test'}/犬"
    )
    assert code == 2
    assert "has 4 images outside of class folders, without labels" in err


def test_classes_matched_by_position_are_named(command, model_files, photos, tmp_path):
    nameless = tmp_path / "nameless.tflite"
    with zipfile.ZipFile(model_files["float32"]) as archive:  # what follows the network
        network = min(member.header_offset for member in archive.infolist())
    nameless.write_bytes(model_files["float32"].read_bytes()[:network])
    code, _, err = command("evaluate", nameless, "--data", f"folder:{photos}")
    assert code == 0, err
    order = ", ".join(sorted(NAMES))
    assert "Warning: The model carries no class names; its outputs are taken for the data's" in err
    assert f"by position alone, in this order: {order}." in err
    (tmp_path / "one").mkdir()
    shutil.copytree(photos / "test" / NAMES[0], tmp_path / "one" / NAMES[0])
    code, _, err = command("evaluate", nameless, "--data", f"folder:{tmp_path / 'one'}")
    assert code == 2
    assert "tells 3 classes apart and the data has 1" in err


def numbered(order, right, count=60):
    """Tally of a classifier of 12 numbered classes whose outputs are in another order."""
    names = tuple(sorted(map(str, range(12))))
    labels = np.random.default_rng(0).integers(0, 12, count)
    outputs = np.array([order.index(names[label]) for label in labels])
    wrong = np.arange(count) >= right * count
    tally = Tally(names)
    tally.add(np.eye(12)[np.where(wrong, (outputs + 1) % 12, outputs)], labels)
    return tally


def test_an_order_of_classes_that_explains_an_accuracy_is_named():
    by_number = list(map(str, range(12)))
    (note,) = numbered(by_number, 0.9).other_order()
    assert re.search(r"An accuracy of \d+\.\d % would be 9\d\.\d % with another order", note)
    assert "(8 for the data's 10, 9 for the data's 11, 10 for the data's 2 ...)" in note
    assert numbered(sorted(by_number), 0.9).other_order() == []  # as it is
    assert numbered(by_number, 0.4).other_order() == []  # no order makes it good
    assert numbered(by_number, 0.9, count=12).other_order() == []  # too few to say


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
    ke.EfficientNetLite1(weights=None, input_shape=(None, None, 3), classes=3).save(path)
    with pytest.warns(UserWarning, match="240 px are used"):
        code, _, _ = command("evaluate", path, "--data", f"folder:{photos}")
    assert code == 0
    assert warnings.formatwarning("So.", UserWarning, "file.py", 1) == "Warning: So.\n"
    code, _, _ = command("evaluate", path, "--data", f"folder:{photos}", "--image-size", 64)
    assert code == 0
