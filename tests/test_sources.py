from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_efficientnet import InputError
from keras_efficientnet.data import sources
from keras_efficientnet.data.splits import stratified_split


def test_digits_are_split_once_and_for_all():
    data: Any = sources.load("digits")
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.class_names == tuple("0123456789")
    assert np.ptp(np.bincount(data.test.labels)) <= 2  # stratified
    assert not data.mirror
    everything = np.concatenate([data.train.pixels, data.test.pixels])
    shrunk = [
        np.asarray(Image.fromarray(image).resize((8, 8), Image.Resampling.BOX))
        for image in everything
    ]
    original = load_digits()
    order = np.concatenate(stratified_split(original.target, 0.2))
    # Enlarging rings a little, but each image is still nearest to the one it was made of.
    found = np.stack(shrunk)[:, None, ..., 0][::50] / 255 * 16
    distance = np.abs(found - original.images[None]).sum((2, 3))
    assert distance.argmin(1).tolist() == order[::50].tolist()
    assert original.target[order].tolist() == [*data.train.labels, *data.test.labels]
    again: Any = sources.load("digits")
    np.testing.assert_array_equal(again.test.pixels, data.test.pixels)


@pytest.mark.parametrize("source", ["", "folder:", "csv:", "imagenet", "tfds:"])
def test_unknown_sources_are_refused(source):
    with pytest.raises(InputError, match="use digits, folder:DIR, csv:FILE, tfds:NAME, tf"):
        sources.load(source)


def test_splits_go_with_tfds_only():
    with pytest.raises(InputError, match="tfds:NAME"):
        sources.load("digits", train_split="train")


def test_the_share_of_held_out_images_can_be_set():
    data = sources.load("digits", holdout=0.5)
    assert data.summary.images == {"train": 898, "test": 899}
    assert data.split == "50 % of each class held out"
    for holdout in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match=r"^holdout=.* must be between 0 and 1"):
            sources.load("digits", holdout=holdout)
