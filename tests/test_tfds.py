from typing import Any

import numpy as np
import pytest
import tensorflow_datasets as tfds
from image_helpers import write_classes

from keras_efficientnet import InputError
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.tfds import from_builder


class Squares(tfds.core.GeneratorBasedBuilder):
    """Plain images whose grey value is their label, in five files."""

    VERSION = tfds.core.Version("1.0.0")
    CHANNELS = 3

    def _info(self):
        features = {
            "image": tfds.features.Image(shape=(None, None, self.CHANNELS)),
            "label": tfds.features.ClassLabel(num_classes=40),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples()}

    def _generate_examples(self):
        for label in range(40):
            pixels = np.full((12, 10, self.CHANNELS), label, np.uint8)
            yield label, {"image": pixels, "label": label}


class GreySquares(Squares):
    CHANNELS = 1


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    builder = Squares(data_dir=tmp_path_factory.mktemp("tfds"))
    shards = tfds.download.DownloadConfig(num_shards=5)
    builder.download_and_prepare(download_config=shards)
    assert builder.info.splits["train"].num_shards == 5
    return from_builder(builder)


def batches(data, count, **options):
    arguments: Any = {"size": 8, "batch_size": 5, "seed": 7, **options}
    stream = pipeline.training_batches(data, **arguments)
    return [(pixels.numpy(), labels.numpy()) for pixels, labels in stream.take(count)]


def test_a_prepared_data_set_trains_and_resumes_at_any_step(squares):
    assert (len(squares.train), len(squares.test)) == (32, 8)
    whole = batches(squares, 20)
    for pixels, labels in whole:
        np.testing.assert_array_equal(pixels[:, 4, 4, 0], labels)
    labels = np.concatenate([labels for _, labels in whole])
    assert sorted(labels[:32]) == sorted(labels[32:64]) == sorted(squares.train.labels)
    assert labels[:32].tolist() != labels[32:64].tolist()
    for start in (6, 7, 13):  # around the end of the first epoch, in the third
        for (pixels, labels), (after, same) in zip(
            whole[start:], batches(squares, 20 - start, start_step=start), strict=True
        ):
            np.testing.assert_array_equal(pixels, after)
            np.testing.assert_array_equal(labels, same)


def test_shards_of_a_prepared_data_set_make_up_the_whole(squares):
    whole = batches(squares, 8, batch_size=6, start_step=2)
    parts = [batches(squares, 8, batch_size=3, start_step=2, shard=(i, 2)) for i in range(2)]
    for (pixels, labels), *shards in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(pixels, np.concatenate([shard[0] for shard in shards]))
        np.testing.assert_array_equal(labels, np.concatenate([shard[1] for shard in shards]))


def test_labels_are_those_of_the_images(squares):
    assert [int(image.getpixel((0, 0))[0]) for image, _ in squares.train] == list(
        squares.train.labels
    )
    assert squares.class_weights() == dict.fromkeys(squares.train.labels.tolist(), 1.0)


def test_some_of_a_prepared_data_set(squares):
    labels = squares.train.labels
    found = [(image.getpixel((0, 0))[0], label) for image, label in squares.train.some([3, 30])]
    assert found == [(labels[3], labels[3]), (labels[30], labels[30])]


def test_grey_images_become_rgb(tmp_path):
    builder = GreySquares(data_dir=tmp_path)
    data = from_builder(builder)
    ((pixels, labels),) = batches(data, 1)
    assert pixels.shape == (5, 8, 8, 3)
    np.testing.assert_array_equal(pixels[:, 4, 4, 2], labels)
    assert next(iter(data.test))[0].mode == "RGB"


@pytest.fixture
def flowers_metadata(tmp_path):
    """What tensorflow-datasets knows of a prepared data set: splits and their sizes."""
    with tfds.testing.mock_data():
        builder = tfds.builder("tf_flowers")
    split = tfds.core.SplitInfo(
        name="train",
        shard_lengths=[10],
        num_bytes=0,
        filename_template=tfds.core.ShardedFileTemplate(
            data_dir=tmp_path, dataset_name="tf_flowers", split="train", filetype_suffix="tfrecord"
        ),
    )
    builder.info.set_splits(tfds.core.splits.SplitDict([split]))
    folder = tmp_path / "tf_flowers" / str(builder.version)
    folder.mkdir(parents=True)
    builder.info.write_to_directory(folder)
    return tmp_path


def test_tfds_data_is_found_by_name(flowers_metadata):
    with tfds.testing.mock_data(num_examples=10, data_dir=str(flowers_metadata)):
        data: Any = sources.load("tfds:tf_flowers")
        assert data.name == "tf_flowers"
        assert data.class_names == ("dandelion", "daisy", "tulips", "sunflowers", "roses")
        assert (data.train.split, data.test.split) == ("train[20%:]", "train[:20%]")
        assert (len(data.train), len(data.test)) == (8, 2)
        image, label = next(iter(data.test))
        assert image.mode == "RGB"
        assert 0 <= label < 5
        ((pixels, labels),) = batches(data, 1)
        assert pixels.shape == (5, 8, 8, 3)
        assert set(labels) <= set(range(5))

        named = sources.load("tfds:tf_flowers", train_split="train[:5]", test_split="train[5:]")
        assert (len(named.train), len(named.test)) == (5, 5)
        with pytest.raises(InputError, match=r"has no split 'nowhere'; it has train"):
            sources.load("tfds:tf_flowers", test_split="nowhere")
        with pytest.raises(InputError, match="does not map an image"):
            sources.load("tfds:iris")
    with pytest.raises(InputError, match="tensorflow-datasets cannot open 'no_such_data'"):
        sources.load("tfds:no_such_data")


def test_tfds_image_folder(tmp_path):
    for split, count in (("train", 4), ("test", 2)):
        write_classes(tmp_path / split, count=count)
    data: Any = from_builder(tfds.folder_dataset.ImageFolder(str(tmp_path)))
    assert data.class_names == ("blue", "red")
    assert (len(data.train), len(data.test)) == (8, 4)
    for image, label in data.test:
        assert image.getpixel((0, 0)) == [(0, 0, 255), (255, 0, 0)][label]
    whole = batches(data, 6, batch_size=3)
    for (pixels, labels), (after, same) in zip(
        whole[2:], batches(data, 4, batch_size=3, start_step=2), strict=True
    ):
        np.testing.assert_array_equal(pixels, after)
        np.testing.assert_array_equal(pixels[:, 4, 4, 0] > 128, labels == 1)
        np.testing.assert_array_equal(labels, same)


def test_imagenet_says_which_files_it_needs_and_where(tmp_path):
    builder = tfds.builder("imagenet2012", data_dir=tmp_path)
    with pytest.raises(InputError) as error:
        from_builder(builder)
    message = str(error.value)
    assert "\n" not in message
    for part in ("ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar", str(tmp_path / "downloads")):
        assert part in message
