"""Copies of images: planted ones are found, and different photos are not taken for copies."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_helpers import real_photos
from PIL import Image

from keras_efficientnet.data import duplicates, sources
from keras_efficientnet.data.threads import in_threads

SHARED = Path(__file__).parents[2] / "shared" / "data"


def fingerprints(paths):
    return list(in_threads(lambda path: duplicates.fingerprint(Image.open(path)), paths))


def encoded(image, **options):
    content = io.BytesIO()
    image.save(content, "JPEG", **options)
    return Image.open(content)


def disguised(image):
    """The same picture: smaller, worse, both, lighter, without colour, as another format."""
    small = image.resize((image.width * 2 // 5, image.height * 2 // 5))
    return [
        small,
        encoded(image, quality=30),
        encoded(small, quality=60),
        image.resize((image.width * 3 // 2, image.height * 3 // 2)),
        image.point(lambda level: 20 + 0.8 * level),
        image.convert("L"),
    ]


def test_pictures_are_known_in_any_size_and_encoding():
    photos = [Image.fromarray(pixels) for pixels in real_photos(200, 12)]
    shown = [photos, *zip(*map(disguised, photos), strict=True)]
    found = duplicates.near_pairs([duplicates.fingerprint(each) for row in shown for each in row])
    sets = duplicates.connected(len(shown) * 12, found)
    assert np.unique(sets).tolist() == list(range(12))
    assert (sets.reshape(-1, 12) == sets[:12]).all()


def test_plain_images_and_unknown_ones_are_copies_of_none():
    plain = [duplicates.fingerprint(Image.new("RGB", (50, 40), grey)) for grey in ("red", "blue")]
    assert len(duplicates.near_pairs([*plain, *plain, b"", b""])) == 0
    assert len(duplicates.near_pairs([])) == 0


def test_a_crowd_of_copies_is_one_set():
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, (16, 16))
    crowd = [
        (base + rng.integers(-2, 3, base.shape)).clip(0, 255).astype(np.uint8).tobytes()
        for _ in range(300)
    ]
    assert set(duplicates.connected(300, duplicates.near_pairs(crowd))) == {0}


def photos_of(root, count=8):
    """Two classes of different photos, `count` of each, none of them of plain sky."""
    photos = [pixels for pixels in real_photos(64, 3 * count) if pixels.mean(2).std() > 10]
    for index, pixels in enumerate(photos[: 2 * count]):
        path = root / ("a", "b")[index % 2] / f"{index // 2}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)


def test_copies_stay_on_one_side_of_what_is_held_out(tmp_path):
    photos_of(tmp_path)
    assert sources.load(f"folder:{tmp_path}").notes == ()
    for index in range(8):
        with Image.open(tmp_path / "a" / f"{index}.png") as image:
            image.resize((40, 40)).save(tmp_path / "a" / f"{index} small.jpg")
        shutil.copy(tmp_path / "b" / f"{index}.png", tmp_path / "b" / f"{index} copy.png")
    data: Any = sources.load(f"folder:{tmp_path}", holdout=0.5)
    sides = [
        {path.stem[0] + path.parent.name for path in part.paths} for part in data.splits.values()
    ]
    assert not sides[0] & sides[1]
    assert data.summary.images == {"train": 16, "test": 16}
    assert data.notes == (
        "32 images are copies of one another, or nearly; they were kept on one side.",
    )


def test_copies_in_splits_that_are_given_and_with_other_labels_are_named(tmp_path):
    photos_of(tmp_path / "train")
    train = tmp_path / "train" / "a"
    for name in ("a", "b"):
        (tmp_path / "val" / name).mkdir(parents=True)
    same, small = tmp_path / "val" / "a" / "same.png", tmp_path / "val" / "b" / "small.jpg"
    shutil.copy(train / "0.png", same)
    with Image.open(train / "1.png") as image:
        image.resize((40, 40)).save(small)
    assert sources.load(f"folder:{tmp_path}").notes == (
        f"1 held-out images are identical to training images, such as {same} to {train / '0.png'}.",
        f"1 held-out images are nearly identical to training images, such as {small} to "
        f"{train / '1.png'}.",
        "1 pairs of images that are the same, or nearly, have different labels, such as "
        f"{train / '1.png'} (a) and {small} (b).",
    )


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_no_two_of_500_different_photos_are_taken_for_copies():
    paths = sorted((SHARED / "imagenet_sample").glob("*.jpg"))
    assert len(paths) == 500
    assert len(duplicates.near_pairs(fingerprints(paths))) == 0


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared")
def test_every_planted_copy_of_a_photo_is_found():
    paths = sorted((SHARED / "flowers" / "val").glob("*/*.jpg"))[::2]
    photos = list(in_threads(lambda path: Image.open(path).convert("RGB"), paths))
    planted = [image for photo in photos for image in disguised(photo)[:3]]
    content = [duplicates.fingerprint(image) for image in [*photos, *planted]]
    sets = duplicates.connected(len(content), duplicates.near_pairs(content))
    assert len(set(sets[: len(photos)].tolist())) == len(photos)  # no two photos are copies
    assert sets[len(photos) :].tolist() == np.repeat(sets[: len(photos)], 3).tolist()
