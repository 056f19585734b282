"""Folders as people have them: what is read, what is left out, and that the summary says so."""

import itertools
import os
import shutil
import unicodedata
from typing import Any

import numpy as np
import pytest
from PIL import Image

from keras_efficientnet import InputError
from keras_efficientnet.data import images, sources
from keras_efficientnet.data.images import SUFFIXES

NUMBERS = itertools.count()


def write(root, *files, count=1):
    """Writes images and other files; a name that ends in / is a folder of `count` images.

    No two images are alike.
    """
    for file in files:
        names = [f"{file}{index}.png" for index in range(count)] if file[-1] == "/" else [file]
        for name in names:
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix in SUFFIXES:
                colour = np.uint32(next(NUMBERS)).tobytes()[:3]
                Image.new("RGB", (4, 4), tuple(colour)).save(path)
            else:
                path.write_text("no image")


def load(root, **options) -> Any:
    return sources.load(f"folder:{root}", **options)


def classes(*splits):
    return [f"{split}/{name}/" for split in splits for name in ("cat", "dog")]


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("Training", "Testing"),
        ("seg_train", "seg_test"),
        ("TRAIN", "VAL"),
        ("trainset", "dev"),
        ("training_set", "test_set"),
        ("train", "eval"),
    ],
)
def test_splits_of_any_spelling(tmp_path, train, held_out):
    write(tmp_path, *classes(train), count=3)
    write(tmp_path, *classes(held_out), count=2)
    summary = load(tmp_path).summary
    assert summary.classes == {"train": {"cat": 3, "dog": 3}, "test": {"cat": 2, "dog": 2}}
    assert summary.split == f"folders {train} and {held_out}"
    assert (summary.left_out, summary.notes) == ((), ())


def test_folders_that_look_like_splits_are_classes_when_asked(tmp_path):
    write(tmp_path, "test/", "train/", count=4)
    with pytest.raises(InputError, match=r"it has 0; .*train has 4 images outside of class folder"):
        load(tmp_path)
    data = load(tmp_path, classes_are_folders=True)
    assert data.class_names == ("test", "train")
    with pytest.raises(InputError, match="goes with folder:DIR data, not with 'digits'"):
        sources.load("digits", classes_are_folders=True)


def test_splits_inside_of_classes_are_refused(tmp_path):
    write(tmp_path, "cat/train/", "cat/test/", "dog/train/", "dog/test/", count=2)
    with pytest.raises(InputError, match="cat' has the splits test, train; put class folders into"):
        load(tmp_path)
    assert load(tmp_path, classes_are_folders=True).class_names == ("cat", "dog")


def test_folders_that_all_classes_have_are_named(tmp_path):
    """They may be the classes, and the folders around them folds or years."""
    write(tmp_path, *classes("fold1", "fold2"), count=2)
    data = load(tmp_path)
    assert data.class_names == ("fold1", "fold2")
    assert data.notes == (
        "The classes fold1, fold2 all have the folders cat, dog, which are read as parts of them.",
    )


def test_validation_images_alone_are_not_trained_on(tmp_path):
    write(tmp_path, *classes("val"), "loose.png", count=2)
    with pytest.raises(InputError, match="no folder train beside val"):
        load(tmp_path)


def test_a_lone_folder_is_entered(tmp_path):
    root = tmp_path / "archive"
    write(root / "data", *classes("Train", "Test"), count=2)
    data = load(tmp_path)
    assert data.summary.images == {"train": 4, "test": 4}
    assert data.notes == tuple(
        f"Read {folder}, the only folder there." for folder in (root, root / "data")
    )


def test_of_three_splits_one_chooses_and_one_is_held_out(tmp_path):
    write(tmp_path, *classes("train"), count=3)
    write(tmp_path, *classes("valid"), count=2)
    write(tmp_path, *classes("test"), count=1)
    data = load(tmp_path)
    assert data.chooser == "val"
    assert {path.parts[-3] for path in data.val.paths} == {"valid"}
    assert {path.parts[-3] for path in data.test.paths} == {"test"}
    summary = data.summary
    assert summary.split == "folders train, valid and test"
    assert summary.images == {"train": 6, "val": 4, "test": 2}
    assert not summary.left_out
    text = summary.describe()
    assert "6 training images, 4 validation images and 2 held-out images" in text
    assert "cat 3 + 2 + 1" in text


@pytest.mark.parametrize("name", ["valid", "test"])
def test_a_single_held_out_split_reports_and_chooses(tmp_path, name):
    write(tmp_path, *classes("train", name), count=2)
    data = load(tmp_path)
    assert (data.val, data.chooser) == (None, "test")
    assert {path.parts[-3] for path in data.test.paths} == {name}


def test_kaggle_folders(tmp_path):
    """Classes in train, unlabelled images in a flat test, and what archives leave behind."""
    write(tmp_path, *classes("seg_train"), count=5)
    write(tmp_path, "seg_test/", "seg_pred/", count=3)
    write(tmp_path, "__MACOSX/seg_train/cat/._0.png", "sample_submission.csv", "loose.png")
    summary = load(tmp_path).summary
    assert summary.images == {"train": 8, "test": 2}
    assert summary.split == "20 % of each class held out"
    reasons = {os.path.basename(each.path): each.reason for each in summary.left_out}
    assert reasons == {
        "seg_test": "has 3 images outside of class folders, without labels.",
        "seg_pred": "lies beside the folders of the splits.",
        tmp_path.name: "has 1 images outside of its splits, without labels.",
    }
    assert summary.notes == (
        "Ignored 1 hidden or system files and folders.",
        "Ignored files with other suffixes than images: .csv 1.",
    )


def test_a_lone_split_is_told_from_a_class_by_its_content(tmp_path):
    write(tmp_path / "a", "bus/", "train/", "car/", count=2)
    data = load(tmp_path / "a")
    assert data.class_names == ("bus", "car", "train")
    assert data.notes == (
        f"Folder {tmp_path / 'a' / 'train'} is taken for a class, as the folders beside it are.",
    )
    write(tmp_path / "b", *classes("train"), "labels/list.txt", count=5)
    data = load(tmp_path / "b")
    assert data.class_names == ("cat", "dog")
    assert [each.path for each in data.left_out] == [str(tmp_path / "b" / "labels")]
    write(tmp_path / "c", "cat/", "dog/", "test/cat/", "test/dog/", count=2)
    data = load(tmp_path / "c")
    assert data.summary.classes["test"] == {"cat": 2, "dog": 2}
    assert data.split == "folder test and the classes beside it"
    write(tmp_path / "d", *classes("training"), count=5)
    assert load(tmp_path / "d").summary.images == {"train": 8, "test": 2}


def test_ambiguous_splits_are_refused(tmp_path):
    write(tmp_path / "a", *classes("train", "training", "test"))
    with pytest.raises(InputError, match=r"several folders of one split: test, train, training;"):
        load(tmp_path / "a")
    write(tmp_path / "b", *classes("val", "test"))
    with pytest.raises(InputError, match="no folder train beside val and test"):
        load(tmp_path / "b")
    write(tmp_path / "c", "train/steam/", "train/diesel/", "bus/", "car/", count=2)
    with pytest.raises(InputError, match="c/train' may be a split or a class"):
        load(tmp_path / "c")
    assert load(tmp_path / "c", classes_are_folders=True).class_names == ("bus", "car", "train")


def test_held_out_images_without_labels_are_named(tmp_path):
    """As Kaggle's `test/unknown`, which has a folder for tools that want one."""
    write(tmp_path, *classes("train"), "test/unknown/", count=5)
    data = load(tmp_path)
    assert data.split == "20 % of each class held out"
    (left_out,) = data.left_out
    assert left_out.reason == "has none of the classes, so its images have no labels."


def test_hidden_and_system_files_are_ignored_at_any_depth(tmp_path):
    write(tmp_path, "cat/", "dog/", "dog/puppies/", count=3)
    write(
        tmp_path,
        *("cat/.thumbnails/0.png", "cat/@eaDir/0.png", "dog/puppies/.ipynb_checkpoints/0.png"),
        *("dog/.hidden.png", "dog/Thumbs.db", ".git/0.png", "__MACOSX/cat/0.png"),
        *("dog/readme", "cat/0.xml", "cat/1.XML"),
    )
    data = load(tmp_path)
    assert len(data.train) + len(data.test) == 9
    assert data.notes == (
        "Ignored 7 hidden or system files and folders.",
        "Ignored files with other suffixes than images: .xml 2, none 1.",
    )


def test_an_empty_class_is_named_and_not_fatal(tmp_path):
    write(tmp_path, "cat/", "dog/", count=2)
    (tmp_path / "fox").mkdir()
    data = load(tmp_path)
    assert data.class_names == ("cat", "dog")
    (left_out,) = data.left_out
    assert left_out.path == str(tmp_path / "fox")
    assert left_out.reason.startswith("has no images; JPEG, PNG, ")
    (tmp_path / "dog").rename(tmp_path / ".dog")
    with pytest.raises(InputError, match=r"it has 1 \(cat\); .*fox has no images"):
        load(tmp_path)


def test_folders_that_cannot_be_read_are_named_at_any_depth(tmp_path, monkeypatch):
    write(tmp_path, "cat/", "dog/", "dog/locked/deep/", count=3)
    locked, scandir = str(tmp_path / "dog" / "locked"), os.scandir

    def refuse(path):
        if os.fspath(path) == locked:
            raise PermissionError(13, "Permission denied", locked)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    (left_out,) = load(tmp_path).left_out
    assert (left_out.path, left_out.reason) == (locked, "cannot be read: Permission denied.")
    with pytest.raises(InputError, match="dog/locked cannot be read: Permission denied"):
        load(tmp_path, strict=True)
    locked = str(tmp_path / "fox")
    write(tmp_path, "fox/", count=3)
    (left_out,) = load(tmp_path).left_out
    assert (left_out.path, left_out.reason) == (locked, "cannot be read: Permission denied.")


def test_links_to_folders_are_named(tmp_path):
    write(tmp_path, "cat/", "dog/", "elsewhere/", count=3)
    (tmp_path / "elsewhere").rename(tmp_path.parent / "elsewhere")
    (tmp_path / "cat" / "more").symlink_to(tmp_path.parent / "elsewhere")
    (left_out,) = load(tmp_path).left_out
    assert left_out.path == str(tmp_path / "cat" / "more")


def test_class_names_in_either_unicode_form_are_one(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    write(tmp_path, f"train/{composed}/", f"val/{decomposed}/", "train/b/", "val/b/")
    assert load(tmp_path).summary.classes["test"] == {"b": 1, composed: 1}


@pytest.mark.parametrize("suffix", [*SUFFIXES, ".TIFF"])
def test_every_format_of_the_suffixes_is_read(tmp_path, suffix):
    formats = {".jfif": "JPEG", ".jpe": "JPEG", ".heic": "HEIF", ".heif": "HEIF"}
    assert not images.is_image(__file__)  # which adds decoders to Pillow
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(2):
            image = Image.new("RGB", (20, 10), (200, 100, 0))
            image.save(tmp_path / name / f"{index}{suffix}", formats.get(suffix))
    data = load(tmp_path)
    assert data.summary.images == {"train": 2, "test": 2}
    assert data.left_out == ()
    for image, _ in data.train:
        red, green, blue = image.getpixel((9, 5))
        assert max(abs(red - 200), abs(green - 100), blue) < 20


def test_the_content_decides_what_an_image_is_and_not_the_suffix(tmp_path):
    write(tmp_path, "cat/", "dog/", count=5)
    for index, name in enumerate(("cat/none", "cat/x.jpg_large", "dog/scan.dat", "dog/2.png.bak")):
        (tmp_path / name).parent.joinpath(f"{index}.png").rename(tmp_path / name)
    for name in ("cat/P5.txt", "dog/notes"):
        (tmp_path / name).write_text("P5 is no image, and BM neither")
    data = load(tmp_path)
    assert len(data.train) + len(data.test) == 10
    assert data.notes == (
        "Ignored files with other suffixes than images: .txt 1, none 1.",
        "Read files with other suffixes than images, by their content: "
        ".bak 1, .dat 1, .jpg_large 1, none 1.",
    )


def test_files_of_any_suffix_that_cannot_be_opened_are_named(tmp_path, monkeypatch):
    write(tmp_path, "cat/", "dog/", "dog/deep/secret.dat", count=3)
    secret, stat = str(tmp_path / "dog" / "deep" / "secret.dat"), os.stat

    def refuse(path, **options):
        if path == secret:
            raise PermissionError(13, "Permission denied", secret)
        return stat(path, **options)

    monkeypatch.setattr(os, "stat", refuse)
    (left_out,) = load(tmp_path).left_out
    assert (left_out.path, left_out.reason) == (secret, "cannot be read: Permission denied.")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    write(tmp_path, *classes("photos"), count=2)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert load("~/photos").class_names == ("cat", "dog")


def test_held_out_images_that_are_also_trained_on_are_named(tmp_path):
    write(tmp_path, *classes("train", "val"), count=5)
    assert load(tmp_path).notes == ()
    train, copy = tmp_path / "train" / "dog" / "2.png", tmp_path / "val" / "cat" / "copy.png"
    shutil.copy(train, copy)
    assert load(tmp_path).notes == (
        f"1 held-out images are identical to training images, such as {copy} to {train}.",
        "1 pairs of images that are the same, or nearly, have different labels, such as "
        f"{train} (dog) and {copy} (cat).",
    )


@pytest.mark.parametrize("holdout", [0.01, 0.25, 0.5, 0.99])
def test_a_share_is_held_out_and_every_class_is_on_both_sides(tmp_path, holdout):
    write(tmp_path, "cat/", "dog/", count=10)
    data = load(tmp_path, holdout=holdout)
    assert len(data.test) == min(max(2, round(holdout * 20)), 18)
    for labels in (data.train.labels, data.test.labels):
        assert set(labels) == {0, 1}
    assert data.split == f"{100 * holdout:g} % of each class held out"
