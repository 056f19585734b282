"""Damaged, odd and hostile input: a result or one clear sentence, whatever it is."""

import json
import os
import stat
import struct
import zipfile
import zlib
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as tflite_schema
from fuzz import targets
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.data import images, sources
from keras_efficientnet.data.dataset import FileExamples
from keras_efficientnet.description import ModelDescription, read_description

SEEDS = Path(__file__).parent / "fuzz" / "seeds"
CHEAP = ("image", "csv", "class_folders", "weight_file", "description", "specification")


def seeds(target):
    return [path.read_bytes() for path in sorted((SEEDS / target).iterdir())]


@pytest.mark.parametrize("target", targets.TARGETS)
def test_every_seed_ends_well(target):
    outcomes = {targets.TARGETS[target](seed) for seed in seeds(target)}
    assert outcomes <= {targets.RESULT, targets.SENTENCE}
    assert targets.RESULT in outcomes or target == "weight_file"


@st.composite
def damaged(draw, target):
    """A seed with some bytes changed, left out or doubled."""
    content = bytearray(draw(st.sampled_from(seeds(target))))
    for _ in range(draw(st.integers(1, 4))):
        if not content:
            break
        start = draw(st.integers(0, len(content) - 1))
        end = start + draw(st.integers(0, 32))
        content[start:end] = draw(st.binary(max_size=4)) * draw(st.sampled_from([1, 1, 9]))
    return bytes(content)


@pytest.mark.parametrize("target", CHEAP)
def test_damaged_input_ends_in_a_result_or_a_sentence(target):
    @settings(max_examples=60)
    @given(damaged(target))
    def check(content):
        assert targets.TARGETS[target](content) in (targets.RESULT, targets.SENTENCE)

    check()


@settings(max_examples=40)
@given(st.binary(max_size=16))
def test_any_command_line_ends_in_a_result_or_a_sentence(data):
    targets.command_line(data)


def assert_refused(call, match):
    with pytest.raises(InputError, match=match) as caught:
        call()
    targets.assert_sentence(str(caught.value))


# Images.


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_a_file_cut_anywhere_is_read_or_refused(tmp_path, kind):
    noise = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    path = tmp_path / "whole"
    Image.fromarray(noise).save(path, kind)
    content = path.read_bytes()
    images.read(content)
    for end in range(0, len(content), max(1, len(content) // 40)):
        targets.image(content[:end])


def test_formats_that_would_start_another_program_are_not_opened(tmp_path, monkeypatch):
    """Pillow gives EPS files to Ghostscript."""
    mark, program = tmp_path / "executed", tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    assert_refused(lambda: images.read(path), "is not an image that can be read")
    assert not mark.exists()


def png(width, height, rows):
    """A PNG file of one grey level whose rows take next to nothing."""

    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(width + 1)) for _ in range(rows)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


def test_decompression_bombs_are_refused_before_they_are_decoded():
    bomb = png(20_000, 20_000, rows=10)
    assert len(bomb) < 10_000
    assert_refused(lambda: images.read(bomb), "too many pixels")


def test_long_images_are_prepared():
    for size in ((30_000, 1), (1, 30_000), (1, 1)):
        assert images.prepare(Image.new("RGB", size, "red"), 32, 0.875).shape == (32, 32, 3)


# As EXIF has them: the type's number and four bytes of value.
@pytest.mark.parametrize(
    ("kind", "value"),
    [
        *((3, struct.pack("<HH", number, 0)) for number in (0, 9, 65_535)),
        (2, b"6\0\0\0"),
        (4, struct.pack("<I", 2**31 + 6)),
        (11, struct.pack("<f", 6.5)),
    ],
)
def test_orientations_that_mean_nothing_do_not_stop_training(tmp_path, kind, value):
    header = b"Exif\0\0II*\0" + struct.pack("<IHHHI", 8, 1, 0x0112, kind, 1)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(2):
            path = tmp_path / name / f"{index}.jpg"
            Image.new("RGB", (8, 6)).save(path, exif=header + value + bytes(4))
    data = sources.load(f"folder:{tmp_path}", strict=True)
    train = FileExamples(data.train.files, memory_bytes=0)
    records, decode = train.stream(0, 0)
    _, orientation, _ = decode(next(iter(records)))
    assert int(orientation) == 1


# Folders.


def fill(folder, count=2):
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.new("RGB", (4, 4)).save(folder / f"{index}.png")


def test_pipes_links_and_loops_in_class_folders(tmp_path):
    root = tmp_path / "photos"
    for name in ("a", "b"):
        fill(root / name)
    os.mkfifo(root / "a" / "pipe.jpg")
    (root / "a" / "up").symlink_to(root)
    (root / "b" / "itself").symlink_to("itself")
    (root / "b" / "self.png").symlink_to("self.png")
    (root / "b" / "zero.png").symlink_to("/dev/zero")
    data = sources.load(f"folder:{root}")
    assert len(data.train) + len(data.test) == 4
    left_out = {Path(each.path).name for each in data.left_out}
    assert left_out == {"up", "pipe.jpg", "itself", "self.png", "zero.png"}
    with pytest.raises(InputError, match="is a pipe"):
        images.read(root / "a" / "pipe.jpg")


def test_class_names_in_any_script_and_with_any_sign(tmp_path):
    names = [
        "犬",
        "лиса",
        "كلب",
        "🦊",
        "$(touch x)",
        "a;b",
        "`id`",
        "<b>",
        "-rf",
        "a\nb",
        " ",
        "%s",
    ]
    for name in names:
        fill(tmp_path / name)
    assert sources.load(f"folder:{tmp_path}").class_names == tuple(sorted(names))


def test_a_class_name_that_is_no_text_is_refused_at_the_beginning(tmp_path):
    fill(tmp_path / "a")
    other = os.path.join(os.fsencode(tmp_path), b"caf\xe9")
    os.rename(tmp_path / "a", other)
    fill(tmp_path / "a")
    assert_refused(lambda: sources.load(f"folder:{tmp_path}"), "not text in UTF-8; rename it")


def test_thousands_of_classes(tmp_path):
    fill(tmp_path / "0")
    for name in range(1, 2000):
        (tmp_path / str(name)).mkdir()
        for index in range(2):
            os.link(tmp_path / "0" / f"{index}.png", tmp_path / str(name) / f"{index}.png")
    data = sources.load(f"folder:{tmp_path}")
    assert data.class_names == tuple(sorted(map(str, range(2000))))
    assert (len(data.train), len(data.test)) == (2000, 2000)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything can be read by root")
def test_a_class_folder_that_cannot_be_read(tmp_path):
    for name in ("a", "b"):
        fill(tmp_path / name)
    (tmp_path / "a").chmod(0)
    assert_refused(lambda: sources.load(f"folder:{tmp_path}"), "has no images")


# Model files.


def test_descriptions_that_attack(tmp_path):
    path = tmp_path / "model.tflite"
    good = ModelDescription("B0", ("a",), 8, 1.0).to_json()

    def refused(text, compression=zipfile.ZIP_STORED, change=lambda content: content):
        with zipfile.ZipFile(path, "w", compression) as archive:
            archive.writestr("keras_efficientnet.json", text)
        path.write_bytes(change(path.read_bytes()))
        assert_refused(lambda: read_description(path), "damaged|too long")

    refused("[" * 100_000)
    refused(" " * 2**27 + good, zipfile.ZIP_DEFLATED)
    for lie in (
        {"pixel_mean": [float("nan")], "pixel_std": [1]},
        {"pixel_mean": [0], "pixel_std": [float("inf")]},
        {"class_names": ["\ud800"]},
        {"class_names": {"a": 1}},
        {"class_names": "a"},
        {"crop_fraction": float("nan")},
    ):
        fields = {**json.loads(good), **lie}
        refused(json.dumps(fields))

    def with_method(content, method):
        content, at = bytearray(content), content.rindex(b"PK\x01\x02")
        content[at + 10] = content[8] = method
        return bytes(content)

    refused(good, change=lambda content: with_method(content, 99))
    refused(good, change=lambda content: with_method(content, 8))


def test_a_long_config_is_not_read(tmp_path):
    path = tmp_path / "model.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", " " * 2**27)
        archive.writestr("model.weights.h5", b"")
    assert_refused(lambda: ke.weights.inspect(path), "more than 64 MiB")


CUT = """
import sys
from pathlib import Path
import keras_efficientnet as ke
content, path = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2])
for share in (0, 0.0001, 0.01, 0.3, 0.6, 0.9):
    path.write_bytes(content[: int(share * len(content))])
    try:
        ke.Predictor(path)
    except ke.InputError as error:
        assert "Cannot load model" in str(error), error
    else:
        raise AssertionError(share)
"""


def test_a_tflite_file_cut_anywhere_is_refused(model_files, tmp_path, run_python):
    """In a process of its own: LiteRT's parser may end it, which this would show."""
    run_python(CUT, model_files["float32"], tmp_path / "model.tflite")


def test_damage_that_shows_only_when_a_model_runs(tmp_path):
    """A buffer that an operator of the golden model needs is no longer found."""
    path, content = tmp_path / "model.tflite", (targets.GOLDEN / "model.tflite").read_bytes()
    pixels = np.zeros((1, 32, 32, 3), np.uint8)
    predictor = ke.Predictor(targets.GOLDEN / "model.tflite")
    assert predictor.scores(pixels).shape == (1, 2)
    path.write_bytes(content)
    model = tflite_schema.ModelT.InitFromPackedBuf(content)
    first = next(op for op in model.subgraphs[0].operators if len(op.inputs) > 1)
    model.subgraphs[0].tensors[first.inputs[1]].buffer = 0
    builder = flatbuffers.Builder(len(content))
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))

    def run():
        ke.Predictor(path).scores(pixels)

    assert_refused(run, "The model cannot be run|Cannot load model")


def test_a_keras_file_cut_anywhere_is_refused(model_files, tmp_path):
    content, path = model_files["keras"].read_bytes(), tmp_path / "model.keras"
    for share in (0, 0.0001, 0.01, 0.3, 0.6, 0.9):
        path.write_bytes(content[: int(share * len(content))])
        assert_refused(lambda: ke.Predictor(path), "Cannot load model")


def test_a_grid_that_has_no_end_is_refused():
    constraint = ke.study.Constraint(ratio=16, tolerance=0.9, step=0.01)
    assert_refused(constraint.grid, "take a larger step")
