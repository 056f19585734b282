import numpy as np
import pytest

from keras_efficientnet import InputError
from keras_efficientnet.data import pipeline, sources


class Numbered(sources.ArrayExamples):
    """Plain images whose grey value is their label, so that each can be told apart."""

    def __init__(self, count, size=16):
        labels = np.arange(count)
        pixels = np.broadcast_to(labels[:, None, None, None], (count, size, size, 3))
        super().__init__(pixels.astype(np.uint8), labels)


def dataset(train, mirror=False):
    return sources.DataSet("numbered", "numbered", (), train, train, 1.0, mirror)


def take(count, **arguments):
    options = {"size": 24, "batch_size": 8, "seed": 3}
    area = arguments.pop("min_crop_area", 0.3)
    options["augmentation"] = pipeline.Augmentation(min_crop_area=area)
    batches = pipeline.training_batches(**{**options, **arguments})
    return [(pixels.numpy(), labels.numpy()) for pixels, labels in batches.take(count)]


def test_an_epoch_holds_every_image_once():
    batches = take(8, dataset=dataset(Numbered(32)))
    for epoch in (batches[:4], batches[4:]):
        assert sorted(np.concatenate([labels for _, labels in epoch])) == list(range(32))
    for pixels, labels in batches:
        assert pixels.dtype == np.uint8
        np.testing.assert_array_equal(pixels[:, 12, 12, 0], labels)


def test_a_seed_fixes_order_and_augmentation():
    noise = np.random.default_rng(0).integers(0, 256, (32, 20, 20, 3)).astype(np.uint8)
    data = dataset(sources.ArrayExamples(noise, np.arange(32)), mirror=True)
    first, again, other = (
        take(6, dataset=data),
        take(6, dataset=data),
        take(6, dataset=data, seed=4),
    )
    for (pixels, labels), (same_pixels, same_labels) in zip(first, again, strict=True):
        np.testing.assert_array_equal(pixels, same_pixels)
        np.testing.assert_array_equal(labels, same_labels)
    assert not np.array_equal(first[0][0], other[0][0])
    by_label = {}
    for pixels, labels in first:
        for image, label in zip(pixels, labels, strict=True):
            by_label.setdefault(int(label), []).append(image)
    repeated = [images for images in by_label.values() if len(images) > 1]
    assert repeated
    assert all(not np.array_equal(images[0], images[1]) for images in repeated)


def test_crops_keep_the_area_and_ratio_they_promise():
    x, y = np.meshgrid(np.arange(200), np.arange(200))
    ramp = np.stack([x, y, x], -1).astype(np.uint8)
    data = dataset(sources.ArrayExamples(ramp[None], np.zeros(1, int)))
    pixels = np.concatenate(
        [batch for batch, _ in take(25, dataset=data, size=100, batch_size=1, min_crop_area=0.25)]
    ).astype(float)
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


def test_evaluation_takes_images_in_order_evenly():
    pixels, labels = pipeline.evaluation_arrays(Numbered(100), 16, 1.0, limit=1000)
    assert labels.tolist() == list(range(100))
    np.testing.assert_array_equal(pixels[:, 3, 5, 1], labels)
    _, some = pipeline.evaluation_arrays(Numbered(100), 16, 1.0, limit=4)
    assert some.tolist() == [0, 33, 66, 99]


def test_an_empty_split_is_refused():
    with pytest.raises(InputError, match="no held-out images"):
        pipeline.evaluation_arrays(Numbered(0), 16, 1.0, limit=4)
