"""The look at data before training: what is wrong is found, shown, and nothing else is."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_helpers import real_photos
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import data_check
from keras_efficientnet.data import sources
from keras_efficientnet.data.dataset import FileExamples
from keras_efficientnet.training import label_errors, probe

pytest_plugins = "cli_helpers"

FLOWERS = Path(__file__).parents[2] / "shared" / "data" / "flowers"


@pytest.fixture(scope="module")
def odd(tmp_path_factory):
    """Photos with copies in a split, across splits and across classes, and a broken file."""
    root = tmp_path_factory.mktemp("odd")
    photos = [pixels for pixels in real_photos(64, 40) if pixels.mean(2).std() > 10]
    for index, pixels in enumerate(photos[:20]):
        path = root / ("train" if index < 14 else "val") / "ab"[index % 2] / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    shutil.copy(root / "train/a/0.png", root / "train/a/again.png")
    shutil.copy(root / "train/a/2.png", root / "val/b/other.png")
    Image.fromarray(photos[4]).resize((48, 48)).save(root / "val/a/small.jpg")
    (root / "train/b/broken.png").write_bytes(b"no image")
    return root


def test_copies_sizes_and_counts(odd):
    data = sources.load_measured(f"folder:{odd}", "all")
    found = data_check.check_data(data, labels=False)
    assert found.data.images == {"train": 15, "val": 8}
    assert found.sizes == {"smallest": (48, 48), "median": (64, 64), "largest": (64, 64)}
    assert found.imbalance == round(12 / 11, 2)
    assert [Path(each.path).name for each in found.data.left_out] == ["broken.png"]
    about = {
        frozenset(Path(image.path).name for image in each.images): (
            *(each.identical, each.across_splits, each.labels_differ),
        )
        for each in found.copies
    }
    assert about == {
        frozenset({"0.png", "again.png"}): (True, False, False),
        frozenset({"2.png", "other.png"}): (True, True, True),
        frozenset({"4.png", "small.jpg"}): (False, True, False),
    }
    least = found.copies[-1]
    assert not least.across_splits
    assert not least.labels_differ
    assert found.suspects is None


def test_data_without_files_are_checked_too():
    digits = sources.load("digits").only("test")
    few = dataclasses.replace(digits, test=digits.test.subset(range(40)))
    found = data_check.check_data(few, labels=False)
    assert found.sizes["median"] == (48, 48)
    assert found.data.images == {"test": 40}
    assert all(image.path is None for each in found.copies for image in each.images)


def test_the_command_prints_and_writes_a_page(command, odd, tmp_path):
    page = tmp_path / "check.html"
    arguments = ("data", "check", f"folder:{odd}", "--no-labels")
    code, out, err = command(*arguments, "--output", page)
    assert code == 0, err
    assert "Left out" in err
    assert "3 sets of copies." in out
    assert "Identical, in several splits, with different labels:" in out
    html = page.read_text(encoding="utf-8")
    assert html.count("data:image/jpeg") == 6
    assert "Nearly identical images, in several splits" in html
    assert "Left out: 1 files and folders" in html
    assert "Not looked for." in html
    code, out, _ = command(*arguments, "--json")
    assert (code, len(json.loads(out)["copies"])) == (0, 3)
    code, _, err = command(*arguments, "--output", page)
    assert (code, "exists; pass --overwrite" in err) == (2, True)
    code, _, err = command("data", "check", "folder:nowhere")
    assert (code, "does not exist" in err) == (2, True)


def blobs(classes=3, count=60):
    rng = np.random.default_rng(0)
    labels = np.arange(classes * count) % classes
    centres = 2 * rng.normal(size=(classes, 16))
    return centres[labels] + rng.normal(size=(len(labels), 16)), labels


def test_labels_that_do_not_fit_their_features_are_suspects():
    pytest.importorskip("cleanlab")
    features, labels = blobs()
    wrong = np.arange(0, 180, 20)
    given = labels.copy()
    given[wrong] = (given[wrong] + 1) % 3
    suspects, probabilities = label_errors.find_label_errors(features, given, np.arange(180))
    assert set(wrong) <= set(suspects.tolist())
    assert len(suspects) <= 2 * len(wrong)
    assert probabilities[wrong].argmax(1).tolist() == labels[wrong].tolist()
    lone = np.append(given, 3)  # a class of one image is not judged
    suspects, probabilities = label_errors.find_label_errors(
        np.vstack([features, features[:1]]), lone, np.arange(181)
    )
    assert 180 not in suspects
    assert probabilities[180].tolist() == [0, 0, 0, 0]
    with pytest.raises(ke.InputError, match="need two classes of at least two images each"):
        label_errors.find_label_errors(features[:3], np.arange(3), np.arange(3))


def test_a_probe_has_not_seen_the_group_that_it_judges():
    features, labels = blobs(2, 20)
    copies = np.concatenate([features, features])
    shuffled = np.random.default_rng(0).permutation(labels)  # nothing to learn but by heart
    both, groups = np.tile(shuffled, 2), np.tile(np.arange(40), 2)
    wide = np.concatenate([copies, np.tile(10 * np.eye(40), (2, 1))], 1)
    judged = probe.predict_unseen(wide, both, groups).argmax(1) == both
    by_heart = probe.predict_unseen(wide, both, np.arange(80)).argmax(1) == both
    assert judged.mean() < 0.7 < 0.8 < by_heart.mean()


def test_without_cleanlab_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cleanlab.count", None)
    with pytest.raises(ke.InputError, match=re.escape("pip install 'efficientnet-keras3[check]'")):
        label_errors.find_label_errors(*blobs(), np.arange(180))


@pytest.mark.slow
@pytest.mark.skipif(not FLOWERS.exists(), reason="needs the photos in ../shared")
def test_swapped_labels_of_photos_are_found():
    """Of 5 % swapped labels at least 70 %, among at most twice as many suspects."""
    pytest.importorskip("cleanlab")
    data = sources.load_measured(f"folder:{FLOWERS}", "all")
    files = [file for part in data.splits.values() for file in part.files]
    rng = np.random.default_rng(0)
    swapped = rng.choice(len(files), len(files) // 20, replace=False)
    for index in swapped.tolist():
        label = (files[index].label + int(rng.integers(1, 5))) % 5
        files[index] = dataclasses.replace(files[index], label=label)
    mixed = dataclasses.replace(
        data, train=FileExamples(files[:500]), test=FileExamples(files[500:]), val=None
    )
    found = data_check.check_data(mixed).suspects
    assert found is not None
    places = {(suspect.image.split, suspect.image.index) for suspect in found}
    hits = {("train", i) if i < 500 else ("test", i - 500) for i in swapped.tolist()} & places
    assert len(hits) >= 0.7 * len(swapped)
    assert len(found) <= 2 * len(swapped)
