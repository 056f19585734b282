import dataclasses
from typing import Any

import numpy as np
import pytest
from image_helpers import write_classes
from PIL import Image
from sklearn.utils.class_weight import compute_class_weight

from keras_efficientnet import InputError
from keras_efficientnet.data import sources
from keras_efficientnet.data.dataset import ArrayExamples, Dataset, FileExamples, LeftOut
from keras_efficientnet.errors import RunError


def drawn(examples, seed, start, count):
    """Images and labels of a stretch of the stream; file contents stay encoded."""
    records, decode = examples.stream(seed, start)
    found = []
    for image, orientation, label in records.map(decode).take(count).as_numpy_iterator():
        found.append((image, int(orientation), int(label)))
    return found


def on_disk(examples):
    return FileExamples(examples.files, memory_bytes=0)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 257])
def test_epochs_are_permutations_that_begin_anywhere(count):
    examples = ArrayExamples(np.zeros((count, 1, 1, 3), np.uint8), np.arange(count))
    labels = [label for _, _, label in drawn(examples, 5, 0, 4 * count)]
    epochs = [labels[i * count : (i + 1) * count] for i in range(4)]
    assert all(sorted(epoch) == list(range(count)) for epoch in epochs)
    if count > 3:
        assert epochs[0] != epochs[1]
        assert labels != [label for _, _, label in drawn(examples, 6, 0, 4 * count)]
    for start in {1, count - 1, count, 2 * count + 1}:
        assert [label for *_, label in drawn(examples, 5, start, count)] == labels[
            start : start + count
        ]


def test_a_stream_is_entered_without_going_through_what_lies_before():
    examples = ArrayExamples(np.zeros((10, 1, 1, 3), np.uint8), np.arange(10))
    far = 10**15  # would take years
    assert sorted(label for *_, label in drawn(examples, 5, far, 10)) == list(range(10))


def test_training_sees_what_evaluation_sees(tmp_path):
    """Turned phone photos too, and whether they are kept in memory or not."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for orientation in range(1, 9):
            exif = Image.Exif()
            exif[0x0112] = orientation
            Image.fromarray(pixels).save(tmp_path / name / f"{orientation}.png", exif=exif)
    data: Any = sources.load(f"folder:{tmp_path}")
    evaluated = sorted((np.asarray(image).tobytes(), label) for image, label in data.train)
    in_memory = drawn(data.train, 0, 0, len(data.train))
    assert {orientation for _, orientation, _ in in_memory} == {1}
    assert sorted((image.tobytes(), label) for image, _, label in in_memory) == evaluated
    files = {path.read_bytes(): path.stem for path in data.train.paths}
    for content, orientation, _ in drawn(on_disk(data.train), 0, 0, len(data.train)):
        assert files[content] == str(orientation)


def test_files_that_tensorflow_cannot_read_go_through_pillow(tmp_path):
    write_classes(tmp_path)
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    image.save(tmp_path / "red" / "0.webp", lossless=True)
    image.convert("P").save(tmp_path / "red" / "1.bmp")  # a palette, which TensorFlow refuses
    data: Any = sources.load(f"folder:{tmp_path}")
    assert not data.left_out
    everything = on_disk(FileExamples(data.train.files + data.test.files))
    import tensorflow as tf

    found = set()
    for content, _, label in drawn(everything, 0, 0, len(everything)):
        decoded = tf.io.decode_image(content, 3, expand_animations=False)
        found.add((decoded.numpy().tobytes(), label))
    expected = {(np.asarray(image).tobytes(), label) for image, label in everything}
    assert found == expected


def test_a_file_that_changes_while_in_use_is_named(tmp_path):
    write_classes(tmp_path)
    data: Any = sources.load(f"folder:{tmp_path}")
    for path in data.train.paths:
        Image.new("RGB", (7, 7)).save(path)
    with pytest.raises(RunError, match=r"0.png was changed"):
        data.train.stream(0, 0)
    data.train.paths[0].unlink()
    with pytest.raises(RunError, match=r"0.png was changed"):
        list(data.train)


def test_class_weights_balance_the_classes():
    labels = np.array([0] * 10 + [1] * 30 + [3] * 5)
    examples = ArrayExamples(np.zeros((45, 1, 1, 3), np.uint8), labels)
    data = Dataset("x", "x", ("a", "b", "never", "d"), examples, examples, 1.0, False)
    weights = data.class_weights()
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert weights == pytest.approx(dict(zip((0, 1, 3), expected, strict=True)))
    assert np.mean([weights[label] for label in labels]) == pytest.approx(1)


def test_class_weights_are_those_of_the_training_images(tmp_path):
    write_classes(tmp_path / "train", count=3)
    write_classes(tmp_path / "val", count=2)
    (tmp_path / "train" / "red" / "0.png").unlink()
    data = sources.load(f"folder:{tmp_path}")
    assert data.class_weights() == pytest.approx({0: 5 / 6, 1: 5 / 4})
    assert dataclasses.replace(data, train=data.test).class_weights() == {0: 1.0, 1: 1.0}


def test_the_summary_says_what_was_read_and_what_was_not(tmp_path):
    write_classes(tmp_path / "train", count=3)
    write_classes(tmp_path / "val", count=2)
    broken = tmp_path / "train" / "red" / "0.png"
    broken.write_bytes(b"no image")
    summary = sources.load(f"folder:{tmp_path}").summary
    assert summary.images == {"train": 5, "test": 4}
    assert summary.classes == {"train": {"blue": 3, "red": 2}, "test": {"blue": 2, "red": 2}}
    assert summary.split == "folders train and val"
    assert [each.path for each in summary.left_out] == [str(broken)]
    text = summary.describe()
    assert "5 training images and 4 held-out images (folders train and val)." in text
    assert "Images of 2 classes: blue 3 + 2, red 2 + 2." in text
    assert f"Left out {broken}: is not an image" in text


def test_a_summary_follows_its_data_set():
    examples = ArrayExamples(np.zeros((45, 1, 1, 3), np.uint8), np.arange(45) % 30)
    names = tuple(f"c{index}" for index in range(30))
    data = Dataset("x", "x", names, examples, examples, 1.0, False)
    smaller = dataclasses.replace(data, train=examples.subset(range(30)), notes=("A note.",))
    assert smaller.summary.images == {"train": 30, "test": 45}
    assert "c19 1 + 1, ... and 10 more.\nA note." in smaller.summary.describe()
    many = tuple(LeftOut(f"{index}.png", "is empty.") for index in range(25))
    assert (
        dataclasses.replace(data, left_out=many)
        .summary.describe()
        .endswith("Left out 19.png: is empty.\n... and 5 more")
    )


def test_arrays_of_0_to_1_are_refused():
    for pixels in (np.full((2, 4, 4, 3), 0.5), np.ones((2, 4, 4, 3), bool)):
        with pytest.raises(InputError, match="multiply them by 255"):
            ArrayExamples(pixels, np.zeros(2, int))
