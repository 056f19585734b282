"""Disks that fill up, folders that vanish, clocks that jump: a clear error, and nothing lost."""

import contextlib
import dataclasses
import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from fuzz.targets import assert_sentence
from image_helpers import write_classes
from PIL import Image

import keras_efficientnet as ke
from keras_efficientnet import RunError, cli, deploy, study, training
from keras_efficientnet.data import sources
from keras_efficientnet.data.dataset import FileExamples
from keras_efficientnet.deploy.exportable import open_exportable
from keras_efficientnet.study import trials
from keras_efficientnet.training import run_checkpoints

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def tiny():
    b0 = ke.spec.VARIANTS["B0"]
    return dataclasses.replace(b0, name="tiny", width=0.25, depth=0.3, stages=b0.stages[:2])


@pytest.fixture
def complaint(capsys, monkeypatch):
    """Runs a command, and returns its exit code and the one line that it says of a failure."""

    def complaint(*arguments):
        monkeypatch.setattr(sys, "argv", ["keras-efficientnet", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        complaint = capsys.readouterr().err
        assert "Traceback" not in complaint
        (line,) = [line for line in complaint.splitlines() if line.startswith("Error: ")]
        assert_sentence(line)
        return stop.value.code, line

    return complaint


@contextlib.contextmanager
def disk_of(size):
    """Lets no file grow larger: what a full disk is, without a disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def files_of(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


# Disks that are full.


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for index in range(20):
        Image.new("RGB", (8, 8)).save(folder / f"{index}.png")
    return folder


@pytest.mark.parametrize("name", ["out.csv", "out.svg"])
def test_a_full_disk_leaves_the_earlier_result(tmp_path, photos, complaint, name):
    output = tmp_path / "there" / name
    output.parent.mkdir()
    output.write_text("the earlier result")
    predict = ("predict", GOLDEN / "model.tflite", photos)
    command = predict if name.endswith("csv") else ("plot", "family")
    with disk_of(500):
        code, line = complaint(*command, "--output", output, "--overwrite")
    assert (code, "too large" in line) == (1, True)
    assert files_of(output.parent) == {Path(name): b"the earlier result"}


def test_a_full_disk_in_an_export(tmp_path, capsys):
    formats = ("keras", "saved_model", "tflite")
    for file in ("model.keras", "model_float32.tflite"):
        (tmp_path / file).write_bytes(b"the earlier result")
    before = files_of(tmp_path)
    network = open_exportable(GOLDEN / "model.keras")
    with disk_of(5_000), pytest.raises(deploy.ExportError) as caught:
        deploy.export(network, tmp_path, formats, overwrite=True)
    failed = {file.name: file.reason for file in caught.value.report.failed}
    assert set(failed) == {"model.keras", "saved_model", "model_float32.tflite"}
    assert all("too large" in reason for reason in failed.values())
    assert "Traceback" not in capsys.readouterr().err
    assert files_of(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", folder]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_file_system_that_is_full(small_disk):
    earlier = small_disk / "model_float32.tflite"
    earlier.write_bytes(b"the earlier result")
    (small_disk / "other").write_bytes(bytes(50_000))
    network = open_exportable(GOLDEN / "model.keras")
    with pytest.raises(deploy.ExportError, match="No space left"):
        deploy.export(network, small_disk, "tflite", overwrite=True)
    assert earlier.read_bytes() == b"the earlier result"
    assert {path.name for path in small_disk.iterdir()} == {earlier.name, "other"}


def fit(tiny, folder, **options):
    keras.utils.set_random_seed(1)
    model = ke.EfficientNet(tiny, input_shape=(32, 32, 3), classes=10)
    data = trials.subset(ke.data.load("digits"), 96, 20)
    recipe = training.recipe("small", batch_size=32, **{"epochs": 2, **options})
    run_config = training.RunConfig(checkpoint_seconds=0)
    history = training.fit(
        model, data, recipe, image_size=32, run_config=run_config, folder=folder, seed=1
    )
    return history, model.get_weights()


def test_a_full_disk_in_a_checkpoint_costs_no_good_one(tiny, tmp_path):
    fit(tiny, tmp_path, epochs=1)
    before = run_checkpoints.newest_step(tmp_path)
    with disk_of(10_000), pytest.raises(RunError, match=r"Cannot write checkpoint .* too large"):
        fit(tiny, tmp_path)
    assert run_checkpoints.newest_step(tmp_path) == before
    assert run_checkpoints.load_newest(tmp_path)
    history, _ = fit(tiny, tmp_path)
    assert len(history) == 2


def test_a_full_disk_keeps_the_results_of_a_study(tmp_path):
    rows = [dict.fromkeys(trials.COLUMNS, 1)]
    study.write_rows(tmp_path / "results.csv", rows)
    before = files_of(tmp_path)
    with disk_of(1_000), pytest.raises(OSError, match="too large") as caught:
        study.write_rows(tmp_path / "results.csv", rows * 100)
    assert caught.value.errno == errno.EFBIG
    assert files_of(tmp_path) == before


def test_what_cannot_be_written_to(tmp_path, photos, complaint):
    (tmp_path / "file").write_text("precious")
    for folder in ("/proc/nowhere", tmp_path / "file"):
        for command in (
            ("predict", GOLDEN / "model.tflite", photos, "--output", f"{folder}/out.csv"),
            ("export", GOLDEN / "model.keras", "--output", folder),
            ("plot", "family", "--output", f"{folder}/out.svg"),
            ("train", "--output", f"{folder}/run", "--epochs", "1"),
        ):
            _, line = complaint(*command)
            assert str(folder) in line
    assert (tmp_path / "file").read_text() == "precious"


# Memory.


def test_more_memory_than_there_is(complaint, tmp_path):
    output = tmp_path / "schedule.svg"
    code, line = complaint("plot", "schedule", "--epochs", 10**9, "--output", output)
    assert (code, "not enough memory" in line) == (1, True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux'")
def test_an_image_too_large_for_the_memory_costs_the_others_nothing(run_python, tmp_path, photos):
    Image.new("L", (9_000, 9_000)).save(photos / "large.png")
    run_python(
        """
import resource, sys
from pathlib import Path
import keras_efficientnet as ke
predictor = ke.Predictor(sys.argv[1], threads=1)
files = sorted(Path(sys.argv[2]).iterdir())
list(predictor.stream(file for file in files if "large" not in file.name))
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**27, resource.RLIM_INFINITY))
answers = list(predictor.stream(files))
bad = [str(answer) for _, answer in answers if isinstance(answer, ke.InputError)]
assert len(answers) == 21, len(answers)
assert len(bad) == 1 and "large.png cannot be decoded" in bad[0], bad
""",
        GOLDEN / "model.tflite",
        photos,
    )


# Data that vanish, and clocks that jump.


def test_a_data_folder_that_vanishes_in_the_midst_of_training(tiny, tmp_path):
    photos, run = tmp_path / "photos", tmp_path / "run"
    write_classes(photos, count=40)
    data = sources.load(f"folder:{photos}")
    on_disk = FileExamples(data.train.files, memory_bytes=0)
    data = dataclasses.replace(data, train=on_disk)
    model = ke.EfficientNet(tiny, input_shape=(32, 32, 3), classes=2)
    recipe = training.recipe("small", batch_size=8, epochs=500)
    done = threading.Event()

    def remove():
        while run_checkpoints.newest_step(run) < 2 and not done.is_set():
            time.sleep(0.01)
        shutil.rmtree(photos)

    remover = threading.Thread(target=remove)
    remover.start()
    try:
        with pytest.raises(RunError, match=r"no longer all there: .*No such file") as caught:
            training.fit(
                model,
                data,
                recipe,
                image_size=32,
                run_config=training.RunConfig(checkpoint_seconds=0),
                folder=run,
            )
    finally:
        done.set()
        remover.join()
    assert_sentence(str(caught.value))
    assert run_checkpoints.load_newest(run)


def test_a_clock_that_jumps_back_changes_nothing(tiny, tmp_path, monkeypatch):
    history, expected = fit(tiny, tmp_path / "steady")
    now, jumping = time.time(), tmp_path / "jumping"
    monkeypatch.setattr(time, "time", lambda: now - 1e5 * np.random.default_rng().random())
    fit(tiny, jumping)
    older, newest = sorted(jumping.iterdir())
    os.utime(older, (now, now))
    os.utime(newest, (0, 0))
    assert run_checkpoints.newest_step(jumping) == 4
    newest.unlink()
    found = fit(tiny, jumping)
    assert [row["epoch"] for row in found[0]] == [row["epoch"] for row in history] == [1, 2]
    for one, other in zip(expected, found[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
