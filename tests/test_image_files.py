import os
import re
import struct
import unicodedata
import zlib
from typing import Any

import numpy as np
import pytest
from image_helpers import COLOURS, write_classes
from PIL import Image

from keras_efficientnet import InputError
from keras_efficientnet.data import pipeline, sources
from keras_efficientnet.data.dataset import FileExamples


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


def break_nothing(root):
    root.rmdir()


def break_class(root):
    (root / "green").mkdir()
    Image.new("RGB", (8, 8)).save(root / "loose.png")


def break_all_of_a_class(root):
    write_classes(root)
    for path in (root / "red").iterdir():
        path.write_bytes(b"not an image")


def break_count(root):
    write_classes(root, count=1)


def break_all_but_one(root):
    write_classes(root, count=2)
    (root / "red" / "0.png").write_bytes(b"not an image")


def break_names(root):
    write_classes(root / "train")
    write_classes(root / "val")
    (root / "val" / "red").rename(root / "val" / "crimson")


@pytest.mark.parametrize(
    ("break_folder", "message"),
    [
        (break_nothing, "does not exist"),
        (lambda root: None, "at least two classes; it has 0"),
        (break_class, "it has 0; .*photos has 1 images outside of class folders, without labels"),
        (break_all_of_a_class, "Class 'red' of .* has no image that can be read; .*0.png is not"),
        (break_count, "'blue' has only one image"),
        (break_all_but_one, "'red' has only one image"),
        (break_names, "'crimson' .* has no training images"),
    ],
)
def test_unusable_folders_are_refused_in_a_sentence(tmp_path, break_folder, message):
    root = tmp_path / "photos"
    root.mkdir()
    break_folder(root)
    with pytest.raises(InputError, match=message):
        sources.load(f"folder:{root}")


def png_that_says_it_is(width, height):
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 9) + b"IDAT"


def write_broken_files(folder):
    """Files that look like images and are not; returns their names."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = folder / "whole.jpg"
    Image.fromarray(noise).save(whole)
    content = whole.read_bytes()
    whole.unlink()
    (folder / "cut.jpg").write_bytes(content[: len(content) // 2])
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "text.png").write_bytes(b"not an image")
    (folder / "nowhere.jpg").symlink_to(folder / "gone.jpg")
    (folder / "loop.jpg").symlink_to(folder / "loop.jpg")
    (folder / "bomb.png").write_bytes(png_that_says_it_is(30_000, 30_000))
    return {"cut.jpg", "empty.jpg", "text.png", "nowhere.jpg", "loop.jpg", "bomb.png"}


def write_odd_files(folder):
    """Files that are unusual and fine; returns their number."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(folder / "turned.JPG", exif=exif)
    image.convert("CMYK").save(folder / "cmyk.jpeg")
    image.save(folder / "progressive.jpg", progressive=True)
    image.save(folder / "really_a_png.jpg", "PNG")
    image.save(folder / "really_a_tiff.png", "TIFF")
    image.save(folder / "web.webp")
    image.convert("P").save(folder / "palette.png", transparency=3)
    image.convert("1").save(folder / "bits.bmp")
    image.convert("LA").save(folder / "grey_alpha.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 200).save(folder / "wide.png")
    frames = [Image.fromarray(np.roll(noise, shift, 0)) for shift in (1, 2)]
    image.save(folder / "moves.gif", save_all=True, append_images=frames)
    image.resize((1, 1)).save(folder / "one.png")
    image.resize((30_000, 1)).save(folder / "long.jpg")
    (folder / "folder.jpg").mkdir()
    image.save(folder / "folder.jpg" / "inside é.png")
    (folder / "._turned.jpg").write_bytes(b"what macOS leaves beside a file")
    (folder / "notes.txt").write_text("no image")
    return 14


def test_broken_files_are_left_out_and_named_and_odd_ones_are_trained_on(tmp_path):
    write_classes(tmp_path, count=2)
    broken = write_broken_files(tmp_path / "red")
    odd = write_odd_files(tmp_path / "blue")
    data: Any = sources.load(f"folder:{tmp_path}")
    assert {os.path.basename(each.path) for each in data.left_out} == broken
    for each in data.left_out:
        assert each.path not in each.reason
        assert each.reason.endswith(".")
    assert len(data.train) + len(data.test) == 4 + odd
    for memory in (0, 2**30):
        train = FileExamples(data.train.files + data.test.files, memory_bytes=memory)
        everything = sources.Dataset("x", "x", data.class_names, train, train, 1.0, True)
        stream = pipeline.training_batches(everything, 32, len(train), 0)
        (pixels, labels), *_ = stream.take(1)
        assert pixels.shape == (4 + odd, 32, 32, 3)
        assert np.bincount(labels).tolist() == [2 + odd, 2]
    assert len(list(data.test)) == len(data.test)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be read by root")
def test_files_without_permission_are_left_out(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "red" / "0.png").chmod(0)
    (left_out,) = sources.load(f"folder:{tmp_path}").left_out
    assert left_out.path == str(tmp_path / "red" / "0.png")


def test_strict_refuses_the_first_broken_file_and_counts_the_others(tmp_path):
    write_classes(tmp_path, count=2)
    assert sources.load(f"folder:{tmp_path}", strict=True).left_out == ()
    count = len(write_broken_files(tmp_path / "red"))
    with pytest.raises(
        InputError, match=rf"^{count} of {4 + count} images .*/red/bomb.png has too many"
    ):
        sources.load(f"folder:{tmp_path}", strict=True)


def write_csv(root, text, encoding="utf-8", name="data.csv"):
    file = root / name
    file.write_bytes(text.encode(encoding))
    return f"csv:{file}"


def rows(split=""):
    """Ten rows of the files of `write_classes`."""
    return [f"{name}/{i}.png,{name}{split}" for name in COLOURS for i in range(5)]


def test_csv_without_splits_holds_out_a_fifth(tmp_path):
    write_classes(tmp_path)
    data: Any = sources.load(
        write_csv(tmp_path, "path,label\n" + "\n".join(rows()), name="my x.csv")
    )
    assert data.name == "my-x"
    assert data.source == f"csv:{tmp_path / 'my x.csv'}"
    assert data.class_names == ("blue", "red")
    assert (len(data.train), len(data.test)) == (8, 2)
    for image, label in data.train:
        assert image.getpixel((0, 0)) == COLOURS[data.class_names[label]]
    folder: Any = sources.load(f"folder:{tmp_path}")
    assert data.test.paths == folder.test.paths


def test_csv_as_spreadsheets_write_it(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "red" / "0.png").rename(tmp_path / "red" / 'naïve, "quoted".png')
    (tmp_path / "red" / "1.png").rename(tmp_path / "red" / "雪.png")
    lines = rows()
    lines[5] = '"red/naïve, ""quoted"".png",red'
    lines[6] = " red/雪.png , red "
    lines[7] = f"{tmp_path}/red/2.png,red"  # an absolute path
    text = "\ufeffNumber,Label,PATH\r\n\r\n"
    for number, line in enumerate(lines):
        path, label = line.rsplit(",", 1)
        text += f"{number},{label},{path}\r\n"
    data: Any = sources.load(write_csv(tmp_path, text + "\r\n"))
    assert data.left_out == ()
    names = {path.name for path in data.train.paths + data.test.paths}
    assert {"雪.png", 'naïve, "quoted".png'} <= names
    assert len(data.train) + len(data.test) == 10


@pytest.mark.parametrize("held_out", ["val", "test", "Validation", "test_set"])
def test_csv_with_splits_keeps_them(tmp_path, held_out):
    write_classes(tmp_path)
    lines = [f"{row},{held_out if '4.png' in row else 'train'}" for row in rows()]
    data: Any = sources.load(write_csv(tmp_path, "path,label,split\n" + "\n".join(lines)))
    assert [path.name for path in data.test.paths] == ["4.png"] * 2
    assert len(data.train) == 8


def test_numbered_classes_are_in_the_order_of_text(tmp_path):
    """As Keras and torchvision sort folders."""
    lines = []
    for label in range(11):
        for copy in range(2):
            Image.new("RGB", (8, 8)).save(tmp_path / f"{label}-{copy}.png")
            lines.append(f"{label}-{copy}.png,{label}")
    data = sources.load(write_csv(tmp_path, "path,label\n" + "\n".join(lines)))
    assert data.class_names == ("0", "1", "10", *map(str, range(2, 10)))


def test_files_that_a_csv_file_names_wrongly_are_left_out(tmp_path):
    write_classes(tmp_path)
    source = write_csv(tmp_path, "path,label\n" + "\n".join([*rows(), "gone.png,red", "red,red"]))
    reasons = {each.path: each.reason for each in sources.load(source).left_out}
    assert reasons[str(tmp_path / "gone.png")] == "does not exist."
    assert "folder" in reasons[str(tmp_path / "red")]
    with pytest.raises(InputError, match=r"2 of 12 images .*gone.png does not exist"):
        sources.load(source, strict=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'label' in its first line"),
        ("path,class\n0.png,red", "no column 'label'"),
        ("path;label\n0.png;red", "no column 'label'.*parted by a comma"),
        ("red/0.png,red\n", "no column 'label'"),
        ("path,label\n", "at least two classes; it names 0"),
        ("path,label\na.png,red\nb.png,red\n", "at least two classes; it names 1"),
        ("path,label\na.png,red\n\nb.png\n", "line 4, must have a path, a label"),
        ("path,label\na.png,red\n,blue\n", "line 3, must have a path, a label"),
        ("path,label\na.png,red,3\n", "line 2, must have .* no more values"),
        ("path,label\na.png,red\nb.png,red\na.png,blue\n", "a.png' on lines 2 and 4"),
        ('path,label\na.png,"red\nb.png,red\n', "line 3, cannot be read"),
        ("path,label,split\na.png,red,left\n", "line 2: split 'left' must be train, val or test"),
        ("path,label,split\na.png,red,\n", "line 2: split '' must be train, val or test"),
        ("path,label,split\na.png,red,val\nb.png,blue,val\n", "training images .* names 0"),
        (
            "path,label,split\na,red,train\nb,blue,train\nc,green,val\n",
            "Class 'green' .* has no training images",
        ),
        ("path,label\na.png,red\nb.png,blue\n", "Class 'red' has only one image"),
        (
            "path,label\na.png,red\nb.png,red\nc.png,blue\nd.png,blue\n",
            "Class 'blue' .* no image that can be read",
        ),
    ],
)
def test_unusable_csv_files_are_refused_in_a_sentence(tmp_path, text, message):
    with pytest.raises(InputError, match=message):
        sources.load(write_csv(tmp_path, text))


def test_csv_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no.csv' cannot be read: No such file"):
        sources.load(f"csv:{tmp_path / 'no.csv'}")
    with pytest.raises(InputError, match="is not text in UTF-8"):
        sources.load(write_csv(tmp_path, "path,label\nä.png,red\n", "latin-1"))
    with pytest.raises(InputError, match="cannot be read: Is a directory"):
        sources.load(f"csv:{tmp_path}")


def test_csv_rows_that_repeat_a_file_count_once(tmp_path):
    write_classes(tmp_path)
    again = [f"./red/../red/0.png,red\n{tmp_path}/red/1.png,red"]
    data: Any = sources.load(write_csv(tmp_path, "path,label\n" + "\n".join([*rows(), *again])))
    assert len(data.train) + len(data.test) == 10
    assert "Ignored 2 rows that repeat another row." in data.summary.notes


def test_csv_with_three_splits(tmp_path):
    write_classes(tmp_path)
    splits = {"0": "TRAIN", "1": "training", "2": "dev", "3": "dev", "4": "test"}
    lines = [f"{row},{splits[row.split('.')[0][-1]]}" for row in rows()]
    data: Any = sources.load(write_csv(tmp_path, "path,label,split\n" + "\n".join(lines)))
    assert data.summary.images == {"train": 4, "val": 4, "test": 2}
    assert data.split == "rows marked train, val and test"
    assert not data.left_out


def test_class_names_are_composed_in_both_sources(tmp_path):
    decomposed, composed = (unicodedata.normalize(form, "café") for form in ("NFD", "NFC"))
    for name in (decomposed, "thé"):
        (tmp_path / name).mkdir()
        for index in range(3):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{index}.png")
    assert sources.load(f"folder:{tmp_path}").class_names == (composed, "thé")
    lines = [f"{decomposed}/0.png,{decomposed}", f"{decomposed}/1.png,{composed}"]
    lines += [f"thé/{index}.png,thé" for index in range(3)]
    source = write_csv(tmp_path, "path,label\n" + "\n".join(lines))
    assert sources.load(source).class_names == (composed, "thé")


def write_scans(root):
    """Grey levels of 12 bits in PNG files of 16, one for each file."""
    for index in range(6):
        folder = root / ("left" if index % 2 else "right")
        folder.mkdir(exist_ok=True)
        values = np.full((8, 8), 819 * index, np.uint16)
        Image.fromarray(values).save(folder / f"{index}.png")


def test_wide_pixels_are_read_by_the_range_that_is_named(tmp_path):
    write_scans(tmp_path)
    with pytest.raises(InputError, match=r"'left' .* --pixel-range LOW:HIGH"):
        sources.load(f"folder:{tmp_path}")
    data: Any = sources.load(f"folder:{tmp_path}", pixel_range=(0, 4095))
    assert data.pixel_range == (0, 4095)
    assert not data.left_out
    for memory in (0, 2**30):
        files = FileExamples(data.train.files + data.test.files, memory, data.pixel_range)
        assert {np.asarray(image)[0, 0, 0] for image, _ in files} == {0, 51, 102, 153, 204, 255}
        everything = sources.Dataset("x", "x", data.class_names, files, files, 1.0, True)
        ((pixels, _),) = pipeline.training_batches(everything, 8, 6, 0).take(1)
        assert set(np.unique(pixels)) == {0, 51, 102, 153, 204, 255}


@pytest.mark.parametrize("limits", [(5, 5), (9, 0), (0, float("inf")), "0:9"])
def test_a_range_that_is_none_is_refused(limits):
    with pytest.raises(InputError, match=r"pixel_range=.* two finite numbers, the lower one first"):
        sources.load("digits", pixel_range=limits)


def test_paths_of_a_csv_file_may_begin_with_a_tilde(tmp_path, monkeypatch):
    write_classes(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    (tmp_path / "lists").mkdir()
    lines = [f"~/{row}" for row in rows()]
    data: Any = sources.load(write_csv(tmp_path / "lists", "path,label\n" + "\n".join(lines)))
    assert len(data.train) + len(data.test) == 10


def test_warnings_of_pillow_are_counted_in_the_summary_and_name_a_file(tmp_path):
    write_classes(tmp_path)
    path = tmp_path / "red" / "strange.jpg"
    entries = bytes.fromhex("0500120103000100000001000000 0f010200ffff0000ffff0000")
    Image.new("RGB", (40, 30)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0" + entries)
    note, *_ = [text for text in sources.load(f"folder:{tmp_path}").notes if "Pillow" in text]
    assert note.startswith(f"Pillow warns of 1 images, such as {path}: ")


@pytest.mark.parametrize(
    ("labels", "cell"),
    [
        (("scab", "rust", "scab rust"), "scab rust"),
        (("scab", "rust", '"rust, scab"'), "rust, scab"),
        (("scab", "rust", "rust|scab"), "rust|scab"),
        (("scab", "rust", "rust;healthy"), "rust;healthy"),
        (("scab", "rust", "\"['scab', 'rust']\""), r"['scab', 'rust']"),
    ],
)
def test_a_cell_of_several_labels_is_refused(tmp_path, labels, cell):
    rows = [f"{index}.png,{label}" for index, label in enumerate(labels)]
    with pytest.raises(InputError, match=re.escape(f"line 4: {cell!r} looks like several labels")):
        sources.load(write_csv(tmp_path, "path,label\n" + "\n".join(rows)))


def test_a_label_of_several_words_is_one(tmp_path):
    write_classes(tmp_path)
    names = {"red": "golden retriever", "blue": '"retriever, golden"'}
    rows = [f"{name}/{i}.png,{names[name]}" for name in names for i in range(5)]
    data = sources.load(write_csv(tmp_path, "path,label\n" + "\n".join(rows)))
    assert data.class_names == ("golden retriever", "retriever, golden")


def test_one_file_under_two_spellings_counts_once(tmp_path):
    write_classes(tmp_path)
    (tmp_path / "red" / "link.png").symlink_to(tmp_path / "red" / "0.png")
    spellings = ("red/link.png", "blue/../red/0.png", "./red/0.png", f"{tmp_path}/red/0.png")
    again = [f"{path},red" for path in spellings]
    source = write_csv(tmp_path, "path,label\n" + "\n".join([*rows(), *again]))
    data = sources.load(source)
    assert len(data.train) + len(data.test) == 10
    assert "Ignored 4 rows that repeat another row." in data.notes
    source = write_csv(tmp_path, "path,label\n" + "\n".join([*rows(), "red/link.png,blue"]))
    with pytest.raises(InputError, match=r"link.png' on lines 7 and 12 with another label, split"):
        sources.load(source)


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="has several columns 'label'; rename all but one"):
        sources.load(write_csv(tmp_path, "path,label,Label\n0.png,a,b"))
