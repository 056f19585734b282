"""The command `predict`: over files, folders and patterns, into a table or a file."""

import csv
import io
import json
import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet.data import images

pytest_plugins = "cli_helpers"


@pytest.fixture(scope="module")
def lite(model_files):
    return model_files["float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five images at two depths, one broken, and files that are none."""
    root = tmp_path_factory.mktemp("photos")
    (root / "tief" / "犬").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name in ("b.jpg", "a.PNG", "tief/c.webp", "tief/犬/d.jpg"):
        pixels = rng.integers(0, 256, (6, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((90, 70)).save(root / name)
    (root / "tief" / "broken.jpg").write_bytes((root / "b.jpg").read_bytes()[:100])
    (root / "notes.txt").write_text("no image")
    (root / ".hidden.jpg").write_bytes(b"")
    (root / "tief" / "@eaDir").mkdir()
    (root / "tief" / "@eaDir" / "thumbnail.png").write_bytes(b"")
    return root


READ = ["a.PNG", "b.jpg", "tief/c.webp", "tief/犬/d.jpg"]


def test_a_folder_into_csv(command, lite, folder, tmp_path):
    output = tmp_path / "new" / "results.csv"
    code, out, err = command("predict", lite, folder, "--output", output, "--top", 2)
    assert code == 0, err
    assert out == f"Written to {output}: 4 images.\n"
    hidden, others, skipped, count = err.splitlines()
    assert hidden == "Ignored 2 hidden or system files and folders."
    assert others == "Ignored files with other suffixes than images: .txt 1."
    assert skipped.startswith(f"Skipped: {folder / 'tief' / 'broken.jpg'} cannot be decoded")
    assert count == "1 of 5 files were skipped."
    with output.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "label_1", "score_1", "label_2", "score_2"]
    assert [row["file"] for row in rows] == [str(folder / name) for name in READ]
    predictor = ke.Predictor(lite)
    for row in rows:
        expected = predictor.classify(row["file"], 2)
        assert (row["label_1"], row["label_2"]) == expected.labels
        scores = [float(row["score_1"]), float(row["score_2"])]
        np.testing.assert_allclose(scores, expected.scores, atol=1e-5)
    assert os.listdir(output.parent) == ["results.csv"]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_pattern_into_json_lines(command, lite, folder, tmp_path, workers):
    output = tmp_path / "results.jsonl"
    pattern = os.path.join(folder, "**", "*.[jw]*")
    code, out, err = command(
        *("predict", lite, pattern, folder / "a.PNG", "--output", output, "--json"),
        *("--workers", workers),
    )
    assert code == 0, err
    summary = json.loads(out)
    assert (summary["output"], summary["images"]) == (str(output), 4)
    (skipped,) = summary["skipped"]
    assert skipped["file"].endswith("broken.jpg")
    assert "cannot be decoded" in skipped["error"]
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [row["file"] for row in rows] == [str(folder / name) for name in READ[1:] + READ[:1]]
    assert [len(row["top"]) for row in rows] == [3] * 4  # all the classes there are


def test_published_weights_answer_in_words(command, tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "cache"))
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((80, 90, 3), 127, np.uint8)).save(photo)
    code, out, err = command("predict", "imagenet", photo, "--top", 3, "--json")
    assert code == 0, err
    ((result,), predictor) = json.loads(out), ke.Predictor(ke.weights.pretrained_file("imagenet"))
    named = [prediction["label"] for prediction in result["top"]]
    assert len(named) == 3
    assert set(named) <= set(ke.weights.imagenet_classes())
    assert predictor.description.image_size == 224
    code, _, err = command("predict", "imagenet:B99", photo)
    assert code == 2
    assert "B99" in err


def test_results_without_an_output_go_to_the_terminal(command, lite, folder):
    code, out, err = command("predict", lite, folder / "b.jpg", folder / "none.jpg", "--json")
    assert code == 0
    assert [row["file"] for row in json.loads(out)] == [str(folder / "b.jpg")]
    assert "none.jpg does not exist." in err
    code, out, _ = command("predict", lite, folder / "tief", "--top", 1)
    assert code == 0
    assert "chat" in out or "犬" in out or "лиса" in out


def test_nothing_is_left_where_no_image_could_be_read(command, lite, folder, tmp_path):
    broken = folder / "tief" / "broken.jpg"
    code, out, err = command("predict", lite, broken, "--output", tmp_path / "results.csv")
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith(f"Error: No image could be read: {broken} cannot")
    assert list(tmp_path.iterdir()) == []


def test_bad_arguments_are_one_sentence(command, lite, folder, tmp_path):
    (tmp_path / "there.csv").write_text("precious")
    (tmp_path / "empty").mkdir()
    photo = folder / "b.jpg"
    for arguments, message in (
        ([lite, photo, "--output", tmp_path / "results.txt"], "must end in .csv or .jsonl"),
        ([lite, photo, "--output", tmp_path / "there.csv"], "--overwrite"),
        ([lite, tmp_path / "empty"], "empty has no image files; JPEG, PNG"),
        ([lite, tmp_path / "*.jpg"], "*.jpg has no image files"),
        ([tmp_path / "none.tflite", photo], "does not exist"),
        ([lite, photo, "--top", 0], "--top"),
        ([lite, photo, "--workers", 0], "--workers"),
    ):
        code, out, err = command("predict", *arguments)
        assert (code, out) == (2, ""), arguments
        assert len(err.splitlines()) == 1
        assert message in err
    assert (tmp_path / "there.csv").read_text() == "precious"
    arguments = ["predict", lite, photo, "--output", tmp_path / "there.csv", "--overwrite"]
    assert command(*arguments)[0] == 0
    assert (tmp_path / "there.csv").read_text().startswith("file,label_1")


@pytest.mark.skipif(sys.platform != "linux", reason="names that are not text, as Linux has them")
def test_a_file_name_that_is_not_text_is_written_readably(command, lite, folder, tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).write_bytes((folder / "b.jpg").read_bytes())
    for suffix in ("csv", "jsonl"):
        output = tmp_path / f"results.{suffix}"
        assert command("predict", lite, tmp_path, "--output", output)[0] == 0
        assert "caf\ufffd.jpg" in output.read_text(encoding="utf-8")
    code, out, _ = command("predict", lite, tmp_path / name, "--json")
    assert code == 0
    assert json.loads(out)[0]["file"].endswith("caf\ufffd.jpg")


STOPPED = """
import signal, sys
from keras_efficientnet import cli, deploy

stream = deploy.Predictor.stream

def waits(self, sources, count):
    for index, result in enumerate(stream(self, sources, count)):
        if index == 640:
            print("in the middle", flush=True)
            signal.pause()
        yield result

deploy.Predictor.stream = waits
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background has none
cli.main()
"""


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_leaves_no_torn_result(lite, folder, tmp_path, stop):
    output = tmp_path / "results.csv"
    photos = [str(folder / "b.jpg")] * 1000
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED, "predict", str(lite), *photos, "--output", str(output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "in the middle\n"
    assert [path.name for path in tmp_path.glob(".*/*") if path.stat().st_size] == ["results.csv"]
    process.send_signal(stop)
    _, err = process.communicate(timeout=300)
    assert not output.exists()
    if stop == signal.SIGINT:
        assert (process.returncode, err.splitlines()[-1]) == (130, "Error: Interrupted.")
        assert "Traceback" not in err
        assert list(tmp_path.iterdir()) == []


def test_pictures_beside_results(command, model_files, folder, tmp_path, monkeypatch):
    """The model is opened once, and each image decoded once."""
    opened, read = [], []
    load, decode = keras.saving.load_model, images.read
    monkeypatch.setattr(
        keras.saving, "load_model", lambda *a, **k: opened.append(a) or load(*a, **k)
    )
    monkeypatch.setattr(images, "read", lambda *a: read.append(a) or decode(*a))
    why = tmp_path / "why"
    code, out, err = command(
        "predict", model_files["keras"], folder, "--explain", why, "--json", "--top", 1
    )
    assert code == 0, err
    results = json.loads(out)
    assert [row["explanation"] for row in results] == [
        str(why / f"{name}.png") for name in ("a", "b", "c", "d")
    ]
    assert sorted(path.name for path in why.iterdir()) == ["a.png", "b.png", "c.png", "d.png"]
    assert "broken.jpg" in err
    assert len(opened) == 1
    assert len(read) == 5
    code, _, err = command("predict", model_files["float32"], folder, "--explain", why / "again")
    assert code == 2
    assert "Only a .keras file has the gradients" in err
    assert not (why / "again").exists()


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # as if not installed
from keras_efficientnet.cli import main
sys.argv[1:1] = ["predict", "--json"]
main()
"""


def test_a_litert_file_needs_no_tensorflow(lite, run_python, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(np.zeros((80, 80, 3), np.uint8)).save(path)
    for options in ([], ["--trust"]):
        home = tmp_path / f"home{len(options)}"
        (answer,) = json.loads(
            run_python(WITHOUT_TENSORFLOW, *options, lite, path, KERAS_HOME=str(home))
        )
        assert len(answer["top"]) == 3
        assert home.exists() is not bool(options)  # where what was tried is remembered


def test_wide_pixels_are_read_by_the_range_that_is_named(command, lite, tmp_path):
    rng = np.random.default_rng(0)
    eight = rng.integers(0, 256, (6, 8), np.uint8)
    Image.fromarray(eight).save(tmp_path / "eight.png")
    Image.fromarray((eight * (4080 / 255)).astype(np.uint16)).save(tmp_path / "twelve.png")
    code, _, err = command("predict", lite, tmp_path / "twelve.png")
    assert (code, "--pixel-range LOW:HIGH" in err) == (2, True)
    code, out, err = command("predict", lite, tmp_path, "--pixel-range", "0:4080", "--json")
    assert code == 0, err
    one, other = json.loads(out)
    assert one["top"] == other["top"]
    code, _, err = command("predict", lite, tmp_path, "--pixel-range", "4095")
    assert (code, err) == (
        2,
        "Error: Invalid value for '--pixel-range': '4095' must be LOW:HIGH, such as 0:4095.\n",
    )


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_a_pipe_that_cannot_show_a_name_gets_a_replacement(
    command, lite, folder, monkeypatch, encoding
):
    for options, shown in ((("--top", 1), "?/d.jpg"), (("--json",), "\\u72ac/d.jpg")):
        pipe = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", pipe)
        assert command("predict", lite, folder, *options)[0] == 0
        pipe.seek(0)
        text = pipe.read()
        assert shown in text
        if "--json" in options:
            names = {row["label"] for result in json.loads(text) for row in result["top"]}
            assert names == {"chat", "犬", "лиса"}


def test_a_table_in_a_pipe_has_whole_names_whatever_the_width(
    command, lite, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "20")
    path = tmp_path / f"{'a long name ' * 9}.jpg"
    path.write_bytes((folder / "b.jpg").read_bytes())
    code, out, _ = command("predict", lite, path)
    assert code == 0
    assert str(path) in out


def with_bad_exif(path):
    """Writes a photo of whose EXIF Pillow warns."""
    entries = bytes.fromhex("0500120103000100000001000000 0f010200ffff0000ffff0000")
    Image.new("RGB", (40, 30)).save(path, exif=b"Exif\0\0II*\0\x08\0\0\0" + entries)


def test_warnings_of_pillow_name_the_file(command, lite, tmp_path):
    with_bad_exif(tmp_path / "strange.jpg")
    code, _, err = command("predict", lite, tmp_path)
    assert code == 0
    assert err.splitlines()
    for line in err.splitlines():
        assert line.startswith(f"Warning: {tmp_path / 'strange.jpg'}: ")
        assert "EXIF" in line or "Tag" in line


def test_a_tilde_is_the_home_folder(command, lite, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    code, _, err = command("predict", lite, folder / "b.jpg", "--output=~/new/results.csv")
    assert code == 0, err
    assert (tmp_path / "new" / "results.csv").exists()


def test_a_pattern_names_folders_that_cannot_be_read(command, lite, folder, tmp_path, monkeypatch):
    locked, scandir = tmp_path / "deep" / "locked", os.scandir
    locked.mkdir(parents=True)
    for path in (tmp_path / "a.jpg", locked / "b.jpg"):
        path.write_bytes((folder / "b.jpg").read_bytes())

    def refuse(path):
        if os.fspath(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(locked))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    code, out, err = command("predict", lite, f"{tmp_path}/**/*.jpg", "--json")
    assert code == 0
    assert [row["file"] for row in json.loads(out)] == [str(tmp_path / "a.jpg")]
    assert err == f"Left out {locked}: cannot be read: Permission denied.\n"
