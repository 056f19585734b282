"""TFRecord and Parquet files: what is read of them, and that training on them can be resumed."""

import io
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import tensorflow as tf
from PIL import Image
from pyarrow import parquet

from keras_efficientnet import InputError
from keras_efficientnet.data import pipeline, sources

NAMES = ("rose", "tulip", "daisy")


def photo(number, kind="PNG", size=(12, 10)):
    """A plain image of a colour that is its number."""
    buffer = io.BytesIO()
    Image.new("RGB", size, (number, number, number)).save(buffer, kind)
    return buffer.getvalue()


def write_tfrecord(path, examples, named=True):
    """Writes pairs of an image's content and its label."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content, label in examples:
            features = {"image/encoded": tf.train.BytesList(value=[content])}
            if label is not None:
                features["image/class/label"] = tf.train.Int64List(value=[label + 1])
                if named:
                    text = NAMES[label].encode()
                    features["image/class/text"] = tf.train.BytesList(value=[text])
            wrapped = {
                name: tf.train.Feature(
                    **{"int64_list" if "label" in name else "bytes_list": values}
                )
                for name, values in features.items()
            }
            example = tf.train.Example(features=tf.train.Features(feature=wrapped))
            writer.write(example.SerializeToString())


def write_parquet(path, examples, named=True):
    """Writes the same as Hugging Face's `datasets` does, in row groups of four."""
    path.parent.mkdir(parents=True, exist_ok=True)
    struct = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {"bytes": content, "path": None}
        if isinstance(content, bytes)
        else {"bytes": None, "path": content}
        for content, _ in examples
    ]
    labels = [-1 if label is None else label for _, label in examples]
    table = pa.table({"image": pa.array(rows, struct), "label": pa.array(labels, pa.int64())})
    if named:
        features = {
            "image": {"_type": "Image"},
            "label": {"names": list(NAMES), "_type": "ClassLabel"},
        }
        about = {"huggingface": json.dumps({"info": {"features": features}})}
        table = table.replace_schema_metadata(about)
    parquet.write_table(table, path, row_group_size=4)


KINDS = {"tfrecord": (write_tfrecord, ".tfrecord"), "parquet": (write_parquet, ".parquet")}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


def write(root, kind, **files):
    """Writes files of some examples; underscores of their names become hyphens."""
    function, suffix = KINDS[kind]
    for name, examples in files.items():
        function(root / (name.replace("_", "-") + suffix), examples)


def load(root, kind, **options) -> Any:
    return sources.load(f"{kind}:{root}", **options)


def examples(numbers, classes=3):
    return [(photo(number), number % classes) for number in numbers]


def test_splits_and_class_names_are_those_of_the_files(tmp_path, kind):
    write(
        tmp_path / "flowers",
        kind,
        train_00000_of_00002=examples(range(9)),
        train_00001_of_00002=examples(range(9, 15)),
        validation_00000_of_00001=examples(range(20, 26)),
        test_00000_of_00001=examples(range(30, 33)),
    )
    data = load(tmp_path / "flowers", kind)
    assert data.name == "flowers"
    assert data.class_names == NAMES
    assert data.summary.images == {"train": 15, "val": 6, "test": 3}
    assert data.summary.classes["train"] == dict.fromkeys(NAMES, 5)
    assert data.split == "files named train, val and test"
    assert (data.left_out, data.notes) == ((), ())
    found = [(image.getpixel((0, 0))[0], label) for image, label in data.train]
    assert found == [(number, number % 3) for number in range(15)]
    some = [image.getpixel((0, 0))[0] for image, _ in data.train.some([1, 8, 14])]
    assert some == [1, 8, 14]
    assert load(f"{tmp_path}/flowers/train-*", kind).listing != data.listing


def test_a_share_is_held_out_where_there_is_no_split(tmp_path, kind):
    write(tmp_path, kind, flowers=examples(range(30)))
    data = load(f"{tmp_path}/flow*", kind, holdout=0.3)
    assert np.bincount(data.train.labels).tolist() == [7, 7, 7]
    assert np.bincount(data.test.labels).tolist() == [3, 3, 3]
    assert data.split == "30 % of each class held out"
    pixels = {image.getpixel((0, 0))[0] for split in (data.train, data.test) for image, _ in split}
    assert pixels == set(range(30))


def batches(data, count, **options):
    arguments: Any = {"size": 8, "batch_size": 5, "seed": 7, **options}
    stream = pipeline.training_batches(data, **arguments)
    return [(pixels.numpy(), labels.numpy()) for pixels, labels in stream.take(count)]


def test_training_is_shuffled_and_resumes_at_any_step(tmp_path, kind):
    write(
        tmp_path,
        kind,
        train_a=examples(range(16)),
        train_b=examples(range(16, 20)),
        test=examples(range(40, 46)),
    )
    data = load(tmp_path, kind)
    whole = batches(data, 12)
    shown = [np.concatenate([pixels[:, 4, 4, 0] for pixels, _ in whole[i : i + 4]]) for i in (0, 4)]
    assert sorted(shown[0]) == sorted(shown[1]) == list(range(20))
    assert shown[0].tolist() != shown[1].tolist()
    for pixels, labels in whole:
        np.testing.assert_array_equal(pixels[:, 4, 4, 0] % 3, labels)
    for (pixels, labels), (after, same) in zip(
        whole[7:], batches(data, 5, start_step=7), strict=True
    ):
        np.testing.assert_array_equal(pixels, after)
        np.testing.assert_array_equal(labels, same)


def test_what_cannot_be_used_is_named_and_odd_images_are_trained_on(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    Image.new("RGB", (30, 20), (9, 9, 9)).save(turned, "JPEG", exif=exif)
    odd = [(photo(3, "GIF"), 0), (photo(6, "TIFF"), 0), (turned.getvalue(), 0)]
    bad = [(b"no image", 1), (photo(5)[:45], 2), (photo(50), None)]
    write(
        tmp_path, kind, train=[*examples(range(10, 16)), *bad, *odd], test=examples(range(15, 21))
    )
    data = load(tmp_path, kind)
    file = tmp_path / f"train{KINDS[kind][1]}"
    assert [each.path for each in data.left_out] == [f"{file}, record {n}" for n in (6, 7)]
    assert data.left_out[0].reason.startswith("is not an image that can be read; JPEG")
    assert data.notes == (
        "Left out 1 images without a label.",
        "1 images of test are identical to images of train.",
    )
    assert [image.size for image, _ in data.train.some([8])] == [(20, 30)]
    ((pixels, _),) = batches(data, 1, batch_size=9)
    assert sorted(pixels[:, 4, 4, 0]) == [3, 6, 9, 10, 11, 12, 13, 14, 15]
    with pytest.raises(InputError, match=r"^2 of 18 images of .*, record 6 is not an image"):
        load(tmp_path, kind, strict=True)


def test_a_test_split_without_labels_is_left_out(tmp_path):
    hidden = [(photo(number), None) for number in range(60, 64)]
    write(tmp_path, "parquet", train=examples(range(15)), test=hidden)
    data = load(tmp_path, "parquet")
    assert data.summary.images == {"train": 12, "test": 3}
    assert data.notes == ("Left out 4 images without a label.",)


def test_images_of_a_parquet_file_may_be_files_beside_it(tmp_path):
    (tmp_path / "photos").mkdir()
    for number in range(9):
        (tmp_path / "photos" / f"{number}.png").write_bytes(photo(number))
    rows = [(f"photos/{number}.png", number % 3) for number in (*range(9), 10)]
    write(tmp_path, "parquet", photos=rows)
    data = load(tmp_path, "parquet")
    assert len(data.train) + len(data.test) == 9
    assert [each.path[-8:] for each in data.left_out] == ["record 9"]


def test_without_class_names_the_labels_are_the_names(tmp_path):
    write_tfrecord(tmp_path / "a.tfrecord", examples(range(24), classes=3), named=False)
    assert load(tmp_path, "tfrecord").class_names == ("1", "2", "3")
    write_parquet(tmp_path / "a.parquet", examples(range(24), classes=3), named=False)
    assert load(tmp_path, "parquet").class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "There are no files of"),
        ({"x": [(photo(1), 0), (photo(2), 0)]}, "at least two classes"),
        ({"x": [(photo(1), 0), (photo(2), 1), (photo(3), 1)]}, "'rose' has only one image"),
        ({"train": examples(range(6)), "more": examples(range(3))}, "more.* has no split and"),
        ({"val": examples(range(6)), "test": examples(range(3))}, "No file has the split train"),
        ({"train_test": examples(range(6))}, "train-test.* has several splits; rename it"),
        (
            {"train": examples([0, 1, 3, 4]), "test": examples(range(3))},
            "Class 'daisy' of the test images of .* has no training images",
        ),
    ],
)
def test_unusable_files_are_refused_in_a_sentence(tmp_path, kind, files, message):
    write(tmp_path, kind, **files)
    with pytest.raises(InputError, match=message):
        load(tmp_path, kind)


def test_damaged_files_are_refused_in_a_sentence(tmp_path, kind):
    write(tmp_path, kind, x=examples(range(6)))
    (path,) = tmp_path.iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    for damaged in (bytes(content[: len(content) // 2]), b"", b"no such file" * 9):
        path.write_bytes(damaged)
        with pytest.raises(InputError) as refused:
            load(tmp_path, kind)
        assert "\n" not in str(refused.value)


def test_columns_and_features_that_are_missing_are_named(tmp_path):
    parquet.write_table(pa.table({"text": ["a"], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"has 0 columns of images \(text, label\); one called"):
        load(tmp_path, "parquet")
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord")) as writer:
        writer.write(tf.train.Example().SerializeToString())
    with pytest.raises(InputError, match="has a record without one 'image/encoded'"):
        load(tmp_path, "tfrecord")
