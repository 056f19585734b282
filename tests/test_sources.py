from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from keras_efficientnet import InputError
from keras_efficientnet.data import sources

COLOURS = {"blue": (0, 0, 255), "red": (255, 0, 0)}


def write_classes(root, count=5, size=(40, 30)):
    """One folder of plain images for each colour."""
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(count):
            Image.new("RGB", size, colour).save(root / name / f"{index}.png")


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
    order = np.concatenate(sources.stratified_split(original.target, 360))
    # Enlarging rings a little, but each image is still nearest to the one it was made of.
    found = np.stack(shrunk)[:, None, ..., 0][::50] / 255 * 16
    distance = np.abs(found - original.images[None]).sum((2, 3))
    assert distance.argmin(1).tolist() == order[::50].tolist()
    assert original.target[order].tolist() == [*data.train.labels, *data.test.labels]
    again: Any = sources.load("digits")
    np.testing.assert_array_equal(again.test.pixels, data.test.pixels)


def test_folder_without_splits_holds_out_a_fifth(tmp_path):
    write_classes(tmp_path / "photos", count=10)
    data: Any = sources.load(f"folder:{tmp_path / 'photos'}")
    assert data.name == "photos"
    assert data.class_names == ("blue", "red")
    assert (len(data.train), len(data.test)) == (16, 4)
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert not set(data.train.paths) & set(data.test.paths)
    for image, label in data.test:
        assert image.getpixel((0, 0)) == COLOURS[data.class_names[label]]


@pytest.mark.parametrize("test_name", ["val", "test", "validation"])
def test_folder_with_splits_keeps_them(tmp_path, test_name):
    write_classes(tmp_path / "train", count=4)
    write_classes(tmp_path / test_name, count=2)
    data: Any = sources.load(f"folder:{tmp_path}")
    assert (len(data.train), len(data.test)) == (8, 4)
    assert {path.parts[-3] for path in data.test.paths} == {test_name}


def test_training_sees_what_evaluation_sees(tmp_path):
    """TensorFlow's decoder and Pillow's agree, on turned phone photos too."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in COLOURS:
        (tmp_path / name).mkdir()
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[sources.ORIENTATION_TAG] = orientation
        for name in COLOURS:
            Image.fromarray(pixels).save(tmp_path / name / f"{orientation}.png", exif=exif)
    data: Any = sources.load(f"folder:{tmp_path}")
    evaluated = sorted((np.asarray(image).tobytes(), label) for image, label in data.train)
    trained = sorted(
        (image.tobytes(), int(label)) for image, label in data.train.shuffled(0).as_numpy_iterator()
    )
    assert trained == evaluated


def test_order_is_fixed_by_the_seed_and_changes_between_epochs(tmp_path):
    write_classes(tmp_path, count=20)
    train = sources.load(f"folder:{tmp_path}").train

    def epochs(seed):
        labels = [int(label) for _, label in train.shuffled(seed).repeat(2).as_numpy_iterator()]
        return labels[: len(train)], labels[len(train) :]

    first, second = epochs(1)
    assert (first, second) == epochs(1)
    assert first != second
    assert epochs(2) != epochs(1)


def break_nothing(root):
    root.rmdir()


def break_class(root):
    write_classes(root)
    (root / "green").mkdir()


def break_image(root):
    write_classes(root)
    (root / "red" / "0.png").write_bytes(b"not an image")


def break_format(root):
    write_classes(root)
    Image.new("RGB", (40, 40)).save(root / "red" / "0.png", "WEBP")


def break_count(root):
    write_classes(root, count=1)


def break_names(root):
    write_classes(root / "train")
    write_classes(root / "val")
    (root / "val" / "red").rename(root / "val" / "crimson")


@pytest.mark.parametrize(
    ("break_folder", "message"),
    [
        (break_nothing, "does not exist"),
        (lambda root: None, "at least two classes; it has 0"),
        (break_class, "green' has no images"),
        (break_image, "0.png is not an image"),
        (break_format, "0.png is a WEBP file"),
        (break_count, "'blue' has only one image"),
        (break_names, "'crimson' .* has no folder"),
    ],
)
def test_unusable_folders_are_refused_in_a_sentence(tmp_path, break_folder, message):
    root = tmp_path / "photos"
    root.mkdir()
    break_folder(root)
    with pytest.raises(InputError, match=message):
        sources.load(f"folder:{root}")


@pytest.mark.parametrize("source", ["", "folder:", "imagenet", "tfds:"])
def test_unknown_sources_are_refused(source):
    with pytest.raises(InputError, match="use digits, folder:DIR or tfds:NAME"):
        sources.load(source)


def test_splits_go_with_tfds_only():
    with pytest.raises(InputError, match="tfds:NAME"):
        sources.load("digits", train_split="train")


@pytest.fixture
def flowers_metadata(tmp_path):
    """What tensorflow-datasets knows of a prepared data set: splits and their sizes."""
    import tensorflow_datasets as tfds

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
    import tensorflow_datasets as tfds

    with tfds.testing.mock_data(num_examples=10, data_dir=str(flowers_metadata)):
        data: Any = sources.load("tfds:tf_flowers")
        assert data.name == "tf_flowers"
        assert data.class_names == ("dandelion", "daisy", "tulips", "sunflowers", "roses")
        assert (data.train.split, data.test.split) == ("train[20%:]", "train[:20%]")
        assert (len(data.train), len(data.test)) == (8, 2)
        image, label = next(iter(data.test))
        assert image.mode == "RGB"
        assert 0 <= label < 5
        pixels, label = next(data.train.shuffled(0).as_numpy_iterator())
        assert pixels.shape[-1] == 3

        named = sources.load("tfds:tf_flowers", train_split="train[:5]", test_split="train[5:]")
        assert (len(named.train), len(named.test)) == (5, 5)
        with pytest.raises(InputError, match=r"has no split 'nowhere'; it has train"):
            sources.load("tfds:tf_flowers", test_split="nowhere")
        with pytest.raises(InputError, match="does not map an image"):
            sources.load("tfds:iris")
    with pytest.raises(InputError, match="tensorflow-datasets cannot open 'no_such_data'"):
        sources.load("tfds:no_such_data")


def test_tfds_image_folder(tmp_path):
    import tensorflow_datasets as tfds

    for split, count in (("train", 4), ("test", 2)):
        write_classes(tmp_path / split, count=count)
    data: Any = sources.from_builder(tfds.folder_dataset.ImageFolder(str(tmp_path)))
    assert data.class_names == ("blue", "red")
    assert (len(data.train), len(data.test)) == (8, 4)
    for image, label in data.test:
        assert image.getpixel((0, 0)) == COLOURS[data.class_names[label]]
