from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from keras_efficientnet import InputError
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.dataset import FileExamples, ImageFile
from keras_efficientnet.data.pipeline import Augmentation

ALL_OF_IT = Augmentation(
    0.3, "rand", num_layers=1, op_probability=0.9, mixup_alpha=0.4, cutmix_alpha=1.0
)


class Numbered(sources.ArrayExamples):
    """Plain images whose grey value is their label, so that each can be told apart."""

    def __init__(self, count, size=16):
        labels = np.arange(count)
        pixels = np.broadcast_to(labels[:, None, None, None], (count, size, size, 3))
        super().__init__(pixels.astype(np.uint8), labels)


def dataset(train, mirror=False, classes=0):
    names = tuple(str(number) for number in range(classes))
    return sources.Dataset("numbered", "numbered", names, train, train, 1.0, mirror)


def noise(count=20, size=20):
    pixels = np.random.default_rng(0).integers(0, 256, (count, size, size, 3)).astype(np.uint8)
    return dataset(sources.ArrayExamples(pixels, np.arange(count)), mirror=True, classes=count)


def take(count, **arguments):
    options: dict[str, Any] = {"size": 24, "batch_size": 8, "seed": 3}
    options |= {"augmentation": Augmentation(min_crop_area=0.3), **arguments}
    batches = pipeline.training_batches(**options)
    return [(pixels.numpy(), labels.numpy()) for pixels, labels in batches.take(count)]


def assert_same(some, others):
    for (pixels, labels), (other_pixels, other_labels) in zip(some, others, strict=True):
        np.testing.assert_array_equal(pixels, other_pixels)
        np.testing.assert_array_equal(labels, other_labels)


def test_an_epoch_holds_every_image_once():
    batches = take(8, dataset=dataset(Numbered(32)))
    for epoch in (batches[:4], batches[4:]):
        assert sorted(np.concatenate([labels for _, labels in epoch])) == list(range(32))
    for pixels, labels in batches:
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels[:, 12, 12, 0], labels)


def test_a_seed_fixes_order_and_augmentation():
    first, again, other = (take(6, dataset=noise(), seed=seed) for seed in (3, 3, 4))
    assert_same(first, again)
    assert not np.array_equal(first[0][0], other[0][0])
    by_label = {}
    for pixels, labels in first:
        for image, label in zip(pixels, labels, strict=True):
            by_label.setdefault(int(label), []).append(image)
    repeated = [images for images in by_label.values() if len(images) > 1]
    assert repeated
    assert all(not np.array_equal(images[0], images[1]) for images in repeated)


def test_the_stream_can_be_entered_at_any_step():
    """20 images in batches of 6: epochs end within batches."""
    options = {"dataset": noise(), "batch_size": 6, "augmentation": ALL_OF_IT}
    whole = take(12, **options)
    for start in (1, 3, 10):
        assert_same(take(12 - start, start_step=start, **options), whole[start:])


def test_shards_make_up_the_batch_of_one_process():
    options = {"dataset": noise(), "augmentation": ALL_OF_IT, "start_step": 2}
    whole = take(8, batch_size=12, **options)
    parts = [take(8, batch_size=4, shard=(index, 3), **options) for index in range(3)]
    joined = [
        (np.concatenate([pixels for pixels, _ in step]), np.concatenate([y for _, y in step]))
        for step in zip(*parts, strict=True)
    ]
    assert_same(joined, whole)


@settings(max_examples=5)
@given(st.integers(1, 9), st.integers(0, 40), st.integers(0, 2**40), st.integers(1, 4))
def test_order_survives_any_interruption(batch_size, start, seed, shards):
    """Labels alone, over images of one pixel."""
    data = dataset(Numbered(13, size=1))
    options = {"dataset": data, "size": 3, "seed": seed, "augmentation": Augmentation()}
    labels = np.concatenate(
        [labels for _, labels in take(start + 2, batch_size=batch_size * shards, **options)]
    )
    index = shards - 1
    resumed = take(1, batch_size=batch_size, start_step=start, shard=(index, shards), **options)[0][
        1
    ]
    begin = (start * shards + index) * batch_size
    np.testing.assert_array_equal(resumed, labels[begin : begin + batch_size])


def test_the_number_of_threads_changes_nothing():
    def with_threads(count):
        batches = pipeline.training_batches(noise(), 24, 8, 3, augmentation=ALL_OF_IT)
        options = tf.data.Options()
        options.threading.private_threadpool_size = count
        options.autotune.enabled = count > 1
        return [
            (pixels.numpy(), labels.numpy())
            for pixels, labels in batches.with_options(options).take(6)
        ]

    assert_same(with_threads(1), with_threads(8))


def test_files_give_the_same_batches_whether_they_fit_into_memory(tmp_path):
    generator = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(6):
            shape = generator.integers(20, 50, 2)
            pixels = generator.integers(0, 256, (*shape, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{number}.png")
    data: Any = sources.load(f"folder:{tmp_path}")
    on_disk = dataset(FileExamples(data.train.files, memory_bytes=0))
    in_memory = dataset(data.train)
    options = {"batch_size": 4, "start_step": 1, "augmentation": Augmentation(0.3)}
    assert_same(take(4, dataset=on_disk, **options), take(4, dataset=in_memory, **options))


@pytest.mark.parametrize("alphas", [(0.4, 0.0), (0.0, 1.0), (0.4, 1.0)])
def test_mixed_labels_are_distributions_of_what_is_seen(alphas):
    """Images of one grey level each: their mean tells the mixture."""
    augmentation = Augmentation(mixup_alpha=alphas[0], cutmix_alpha=alphas[1])
    batches = take(
        30, dataset=dataset(Numbered(32), classes=32), augmentation=augmentation, batch_size=8
    )
    mixed = 0
    for pixels, labels in batches:
        assert pixels.dtype == np.uint8
        assert labels.dtype == np.float32
        assert labels.shape == (8, 32)
        np.testing.assert_allclose(labels.sum(1), 1, atol=1e-6)
        np.testing.assert_allclose(pixels.mean((1, 2, 3)), labels @ np.arange(32), atol=0.51)
        mixed += ((labels > 0).sum(1) == 2).sum()
    assert mixed > 150


def test_a_batch_gets_mixup_or_cutmix_with_equal_probability():
    both = Augmentation(mixup_alpha=0.4, cutmix_alpha=1.0)
    batches = take(60, dataset=dataset(Numbered(32), classes=32), augmentation=both)
    # MixUp leaves every image one grey level; CutMix two, if the levels differ enough.
    cut = sum(any(len(np.unique(image)) > 1 for image in pixels) for pixels, _ in batches)
    assert 18 < cut < 42


def test_an_odd_batch_is_mixed_but_for_its_last_image():
    ((_, labels),) = take(
        1, dataset=noise(), batch_size=5, augmentation=Augmentation(mixup_alpha=1.0)
    )
    assert (labels > 0).sum(1).tolist() == [2, 2, 2, 2, 1]


def test_crops_keep_the_area_and_ratio_they_promise():
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    ramp = np.stack([x, y, x], -1).astype(np.uint8)
    data = dataset(sources.ArrayExamples(ramp[None], np.zeros(1, int)))
    options = {"size": 100, "batch_size": 1, "augmentation": Augmentation(min_crop_area=0.25)}
    pixels = np.concatenate([batch for batch, _ in take(25, dataset=data, **options)]).astype(float)
    # The slope between two inner points tells how wide and how high the crop was.
    widths = (pixels[:, 50, 80, 0] - pixels[:, 50, 20, 0]) * 100 / 60
    heights = (pixels[:, 80, 50, 1] - pixels[:, 20, 50, 1]) * 100 / 60
    area, ratio = widths * heights / 200**2, widths / heights
    assert 0.23 < area.min() < 0.5
    assert 0.75 < area.max() < 1.02
    assert 0.73 < ratio.min() < 0.95
    assert 1.05 < ratio.max() < 1.37


@pytest.mark.parametrize("mirror", [True, False])
def test_only_data_that_allows_it_is_mirrored(mirror):
    half = np.zeros((1, 16, 16, 3), np.uint8)
    half[:, :, 8:] = 255
    data = dataset(sources.ArrayExamples(half, np.zeros(1, int)), mirror=mirror)
    pixels = np.concatenate([batch for batch, _ in take(40, dataset=data, batch_size=1)])
    mirrored = pixels[:, 12, 0, 0] > pixels[:, 12, -1, 0]
    assert 8 < mirrored.sum() < 32 if mirror else not mirrored.any()


def test_the_policy_is_applied_to_the_crop():
    plain, rand, auto = (
        take(3, dataset=noise(), augmentation=Augmentation(0.3, policy, 1, op_probability=1.0))
        for policy in pipeline.POLICIES
    )
    for changed in (rand, auto):
        different = [
            not np.array_equal(image, other)
            for (pixels, _), (others, _) in zip(plain, changed, strict=True)
            for image, other in zip(pixels, others, strict=True)
        ]
        assert np.mean(different) > 0.6


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("min_crop_area", 0),
        ("min_crop_area", 1.1),
        ("policy", "trivial"),
        ("num_layers", -1),
        ("magnitude", 31),
        ("magnitude", float("nan")),
        ("op_probability", 1.2),
        ("mixup_alpha", -0.1),
        ("cutmix_alpha", float("inf")),
    ],
)
def test_impossible_augmentation_is_refused(field, value):
    with pytest.raises(InputError, match=rf"^{field}={value!r} must be "):
        Augmentation(**{field: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("size", 2),
        ("batch_size", 0),
        ("start_step", -1),
        ("shard", (2, 2)),
        ("shard", (0, 0)),
        ("shard", (-1, 2)),
    ],
)
def test_impossible_batches_are_refused(name, value):
    with pytest.raises(InputError, match=rf"^{name}=.* must be "):
        take(1, dataset=noise(), **{name: value})


def test_evaluation_takes_images_in_order_evenly():
    pixels, labels = pipeline.evaluation_arrays(Numbered(100), 16, 1.0, limit=1000)
    assert labels.tolist() == list(range(100))
    np.testing.assert_array_equal(pixels[:, 3, 5, 1], labels)
    _, some = pipeline.evaluation_arrays(Numbered(100), 16, 1.0, limit=4)
    assert some.tolist() == [0, 33, 66, 99]


def test_evaluation_reads_only_what_it_takes(tmp_path):
    files = [ImageFile(tmp_path / f"{number}.png", number, 1, 9, 9) for number in range(50)]
    for number in (0, 24, 49):  # and no others
        Image.new("RGB", (9, 9), (number,) * 3).save(files[number].path)
    pixels, labels = pipeline.evaluation_arrays(FileExamples(files), 8, 1.0, limit=3)
    assert labels.tolist() == [0, 24, 49]
    assert pixels[:, 4, 4, 1].tolist() == [0, 24, 49]


def test_an_empty_split_is_refused():
    with pytest.raises(InputError, match="no held-out images"):
        pipeline.evaluation_arrays(Numbered(0), 16, 1.0, limit=4)
