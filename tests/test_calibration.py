"""Which images of an export do what, and the ranges that are taken from them."""

import colorsys

import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet.data import sources
from keras_efficientnet.deploy.calibration import (
    GATE_IMAGES,
    RANGE_IMAGES,
    RANKING_IMAGES,
    SEARCH_IMAGES,
    TRAINING_IMAGES,
    CalibrationSet,
    RangeObserver,
    stratified_order,
)

SIZE = 8


def colour(label, classes):
    return tuple(round(255 * part) for part in colorsys.hsv_to_rgb(label / classes, 1, 1))


def class_sorted(counts):
    """A data set of plain images, all of one class before those of the next, in both splits."""

    def examples(counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        plain = np.array([colour(label, len(counts)) for label in labels], np.uint8)
        pixels = np.broadcast_to(plain[:, None, None], (len(labels), SIZE, SIZE, 3))
        return ke.data.ArrayExamples(np.ascontiguousarray(pixels), labels)

    names = tuple(f"class {label}" for label in range(len(counts)))
    return sources.Dataset("c", "c", names, examples(counts), examples([9] * len(counts)), 1, True)


def classes_of(images, classes):
    """The classes that plain images are of."""
    known = np.array([colour(label, classes) for label in range(classes)])
    return np.abs(images[:, None, 0, 0].astype(int) - known).sum(-1).argmin(1)


def parts_of(images):
    return {
        "ranges": images.range_images,
        "ranking": images.ranking_images,
        "search": images.search_images,
        "training": images.training_images,
    }


@pytest.mark.parametrize(
    "counts",
    [
        [100] * 5,
        [1200] * 5,
        [6] * 5,
        [900, 5, 5, 5, 90],
        [2000, 2, 1, 1, 2],
    ],
)
@pytest.mark.parametrize("training", [False, True])
def test_every_part_sees_every_class_of_class_sorted_images(counts, training):
    images = CalibrationSet.from_dataset(class_sorted(counts), SIZE, 1.0, training=training)
    for name, part in parts_of(images).items():
        assert set(classes_of(part, len(counts))) == set(range(len(counts))), name
    assert set(classes_of(images.gate_images, len(counts))) == set(range(len(counts)))
    assert len(images.gate_images) == len(images.gate_labels) == 45


def test_every_part_sees_every_class_of_photos_in_folders(tmp_path):
    for label in range(4):
        for split, count in (("train", 40), ("val", 5)):
            folder = tmp_path / split / f"class {label}"
            folder.mkdir(parents=True)
            for index in range(count):
                Image.new("RGB", (12, 10), colour(label, 4)).save(folder / f"{index}.png")
    images = CalibrationSet.from_dataset(ke.data.load(f"folder:{tmp_path}"), SIZE, 1.0)
    for name, part in parts_of(images).items():
        counts = np.bincount(classes_of(part, 4), minlength=4)
        assert counts.min() >= 0.8 * counts.max(), name


def test_parts_of_many_images_are_their_own_and_of_one_size():
    classes = class_sorted([1000] * 4)
    pixels = classes.train.pixels.copy()
    pixels[:, 0, 1] = np.arange(4000)[:, None] // [256, 1, 4000] % 256  # a number for each image
    classes.train.pixels = pixels
    images = CalibrationSet.from_dataset(classes, SIZE, 1.0, training=True)
    number = {
        name: {(int(a) << 8) + int(b) for a, b in part[:, 0, 1, :2]}
        for name, part in parts_of(images).items()
    }
    sizes = {name: len(found) for name, found in number.items()}
    assert sizes == {
        "ranges": RANGE_IMAGES,
        "ranking": RANKING_IMAGES,
        "search": SEARCH_IMAGES,
        "training": TRAINING_IMAGES,
    }
    assert number["ranking"] < number["ranges"] < number["training"]
    assert not number["search"] & number["training"]
    again = CalibrationSet.from_dataset(classes, SIZE, 1.0, training=True)
    np.testing.assert_array_equal(images.search_images, again.search_images)


def test_held_out_images_that_are_prepared_already_are_the_gate():
    data = class_sorted([20] * 3)
    held_out = ke.data.evaluation_arrays(data.test, SIZE, 1.0, GATE_IMAGES)
    images = CalibrationSet.from_dataset(data, SIZE, 1.0, held_out=held_out)
    assert images.gate_images is held_out[0]
    np.testing.assert_array_equal(images.gate_labels, held_out[1])


def test_one_half_of_the_held_out_images_decides_and_the_other_reports():
    images = CalibrationSet.from_dataset(class_sorted([20] * 3), SIZE, 1.0)
    deciding = images.deciding
    for label in range(3):
        assert sorted((deciding[images.gate_labels == label]).tolist()).count(True) in (4, 5)
    unlabelled = CalibrationSet(images.images, images.gate_images)
    assert unlabelled.deciding.all()  # there is no accuracy to report
    single = CalibrationSet(images.images, images.gate_images[:1], None, np.zeros(1, int))
    assert single.deciding.all()


def test_labels_are_in_the_order_of_the_models_classes():
    data = class_sorted([20] * 3)
    names = ("another", "class 2", "class 0", "class 1")
    images = CalibrationSet.from_dataset(data, SIZE, 1.0, class_names=names)
    assert images.gate_labels is not None
    assert images.gate_labels.tolist() == [2] * 9 + [3] * 9 + [1] * 9
    other = CalibrationSet.from_dataset(data, SIZE, 1.0, class_names=("class 0", "b", "c"))
    assert other.gate_labels is None


def test_of_an_array_every_fifth_image_is_the_gates():
    pixels = (
        np.zeros((40, SIZE, SIZE, 3), np.uint8) + np.arange(40, dtype=np.uint8)[:, None, None, None]
    )
    images = CalibrationSet.from_array(pixels)
    held_out = set(images.gate_images[:, 0, 0, 0].tolist())
    assert held_out == set(range(4, 40, 5))
    assert images.compared_on == "held-out images"
    for part in parts_of(images).values():
        assert not held_out & set(part[:, 0, 0, 0].tolist())
        assert len(part) == 32
    few = CalibrationSet.from_array(pixels[:3])
    assert few.gate_images is few.images
    assert few.compared_on == "calibration images themselves"


@pytest.mark.parametrize("seed", range(4))
def test_any_stretch_of_the_order_has_its_share_of_every_class(seed):
    rng = np.random.default_rng(seed)
    labels = np.sort(rng.choice(6, 600, p=[0.4, 0.3, 0.1, 0.1, 0.05, 0.05]))
    order = stratified_order(labels)
    assert sorted(order) == list(range(600))
    for start in range(0, 600, 100):
        counts = np.bincount(labels[order[start : start + 100]], minlength=6)
        assert np.abs(counts - np.bincount(labels) / 6).max() <= 2
    of_class = order[labels[order] == 0]  # shuffled within a class, too
    assert (np.diff(of_class) < 0).any()


def test_ranges_leave_out_what_hardly_occurs_and_what_functions_ignore():
    values = np.linspace(-20, 20, 400_001)
    values[0], values[-1] = -1000, 1000

    def found(observer, tail=1e-2):
        observer.observe(values)
        return observer.range(tail)

    low, high = found(RangeObserver())
    assert low == pytest.approx(-19.6, abs=0.5)
    assert high == pytest.approx(19.6, abs=0.5)
    assert found(RangeObserver(whole=True)) == (-1000, 1000)
    assert found(RangeObserver("swish"))[0] == -6
    assert found(RangeObserver("sigmoid")) == (-8, 8)
    positive = RangeObserver(whole=True)
    positive.observe(np.array([3.0, 5.0]))
    assert positive.range() == (0, 5)
    dead = RangeObserver()
    dead.observe(np.zeros(10))
    low, high = dead.range()
    assert low == 0 < high
