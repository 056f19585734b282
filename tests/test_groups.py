"""Images that belong together stay on one side of every split."""

from typing import Any

import numpy as np
import pytest
from test_folders import write

from keras_efficientnet import InputError
from keras_efficientnet.data import sources
from keras_efficientnet.data.splits import grouped_split, stratified_split


def patients(root, count=10):
    """Two classes of photos of patients, in a folder for each, 3 of each patient and class."""
    folders = [f"{name}/p{patient}/" for name in ("ill", "well") for patient in range(count)]
    write(root, *folders, count=3)
    return f"folder:{root}"


def sides(data):
    return [{path.parent.name for path in split.paths} for split in (data.train, data.test)]


@pytest.mark.parametrize("by", ["parent", r"/(p\d+)/", r"p\d+"])
def test_a_group_is_on_one_side_and_every_class_on_both(tmp_path, by):
    data: Any = sources.load(patients(tmp_path), group_by=by)
    train, test = sides(data)
    assert not train & test
    assert len(test) == 2
    assert np.bincount(data.test.labels).tolist() == [6, 6]
    assert data.split == f"20 % of each class held out, whole groups by {by} at a time (10 groups)"
    assert (data.holdout, data.group_by) == (0.2, by)
    assert "whole groups by" in data.summary.describe()
    assert {file.group for file in data.test.files} == test
    again: Any = sources.load(f"folder:{tmp_path}", group_by=by)
    assert again.test.paths == data.test.paths


def test_groups_of_a_csv_file(tmp_path):
    patients(tmp_path)
    rows = [
        f"{path.relative_to(tmp_path)},{path.parts[-3]},{path.parent.name}"
        for path in sorted(tmp_path.glob("*/*/*.png"))
    ]
    table = tmp_path / "data.csv"
    table.write_text("path,label,group\n" + "\n".join(rows))
    data: Any = sources.load(f"csv:{table}")
    train, test = sides(data)
    assert not train & test
    assert data.split.endswith("whole groups by the column group at a time (10 groups)")
    with pytest.raises(InputError, match="have a column group; rename it, or leave --group-by out"):
        sources.load(f"csv:{table}", group_by="parent")
    table.write_text("path,label,group\n" + "\n".join([rows[0].removesuffix("p0"), *rows[1:]]))
    changed = sources.load(f"csv:{table}")
    assert changed.notes == (f"1 images belong to no group, such as {tmp_path / 'ill/p0/0.png'}.",)
    assert changed.listing != data.listing  # other images would be held out


def test_groups_across_splits_that_are_given_are_refused(tmp_path):
    write(tmp_path, "train/ill/", "train/well/", "val/ill/", "val/well/", count=2)
    message = "Group '0' of .* is in the splits train and val, with .*0.png and .*0.png; a group"
    with pytest.raises(InputError, match=message):
        sources.load(f"folder:{tmp_path}", group_by=r"(\d)\.png")
    assert sources.load(f"folder:{tmp_path}", group_by=r".*").summary.images["train"] == 4


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("parent(", "'parent\\(' is neither parent nor a regular expression: missing"),
        ("clip", "'clip' is not found in any path"),
        ("ill|well", "Class 'ill' has only one group, 'ill'; at least two are needed"),
    ],
)
def test_groups_that_cannot_be_told_or_divided_are_refused(tmp_path, by, message):
    with pytest.raises(InputError, match=message):
        sources.load(patients(tmp_path, 2), group_by=by)


def test_classes_that_groups_tie_together_are_refused(tmp_path):
    write(tmp_path, "a/x/", "b/x/", "b/y/", "c/y/", "a/z/", "c/z/", count=1)
    with pytest.raises(InputError, match=r"Class '[abc]' cannot be held out in whole groups"):
        sources.load(f"folder:{tmp_path}", group_by="parent")


def test_groups_go_with_files_only():
    with pytest.raises(InputError, match="--group-by goes with folder:DIR and csv:FILE, not with"):
        sources.load("digits", group_by="parent")


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5, 0.8])
def test_shares_are_kept_as_nearly_as_groups_admit(share):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2000)
    groups = rng.integers(0, 300, 2000)
    train, test = grouped_split(labels, groups, share)
    assert sorted([*train, *test]) == list(range(2000))
    assert not set(groups[train]) & set(groups[test])
    held = np.bincount(labels[test]) / np.bincount(labels)
    assert np.abs(held - share).max() < 0.06
    alone = grouped_split(labels, np.arange(2000), share)
    for part, expected in zip(alone, stratified_split(labels, share), strict=True):
        assert part.tolist() == expected.tolist()  # without groups, as ever
