"""Runs that are killed at any moment, in processes of their own."""

import dataclasses
import random
import shutil
import subprocess
import sys
import time
import zipfile

import h5py
import numpy as np
import pytest
from filelock import FileLock, Timeout

from keras_efficientnet import InputError, run_folder
from keras_efficientnet.report import RunSettings, read_report
from keras_efficientnet.run import TrainConfig, train
from keras_efficientnet.run_folder import open_run_folder
from keras_efficientnet.training import recipe, run_checkpoints

NETWORK = """
import dataclasses, sys
from pathlib import Path
import keras
import keras_efficientnet as ke
from keras_efficientnet.run import TrainConfig, train
from keras_efficientnet.training import RunConfig, fit, recipe

b0 = ke.spec.VARIANTS["B0"]
tiny = dataclasses.replace(
    b0, name="tiny", width=0.25, depth=0.3, stages=b0.stages[:2], batch_norm_momentum=0.7
)
every_step = RunConfig(checkpoint_seconds=0, deterministic=True)
"""

FIT = (
    NETWORK
    + """
import tensorflow as tf
tf.config.experimental.enable_op_determinism()
folder = Path(sys.argv[1])
data = ke.data.load("digits")
keras.utils.set_random_seed(1)
model = ke.EfficientNet(tiny, input_shape=(32, 32, 3), classes=10)
chosen = recipe("small", epochs=2, batch_size=32, ema_decay=0.99)
history = fit(
    model, data, chosen, image_size=32, seed=1, run_config=every_step, folder=folder
)
assert len(history) == 2
model.save_weights(folder / "final.weights.h5")
"""
)

TRAIN = (
    NETWORK
    + """
chosen = recipe("small", epochs=2, batch_size=32, ema_decay=0.99)
train(
    "digits", tiny, chosen, image_size=32, output=sys.argv[1], if_exists="resume",
    config=TrainConfig(seed=1, **vars(every_step)),
)
"""
)


PATIENCE = 900  # seconds, on a machine that is busy with other things


def start(code, folder):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stderr=subprocess.PIPE, text=True
    )


def finish(code, folder):
    child = start(code, folder)
    _, complaint = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, complaint


def until(child, condition):
    """Waits until a condition is true, or the child has ended."""
    limit = time.monotonic() + PATIENCE
    while not condition() and child.poll() is None:
        assert time.monotonic() < limit
        time.sleep(0.0005)


def kill(code, folder, checkpoints, rng, while_writing):
    """Kills a run after some steps, at a random moment or while it writes a checkpoint."""
    child = start(code, folder)
    before = run_checkpoints.newest_step(checkpoints)
    until(child, lambda: run_checkpoints.newest_step(checkpoints) > before)
    if while_writing:
        time.sleep(rng.uniform(0, 0.2))
        until(child, lambda: any(checkpoints.glob("*.writing")))
    else:
        time.sleep(rng.uniform(0, 1))
    child.kill()
    child.communicate()


def read_weights(path):
    found = {}

    def add(name, item):
        if isinstance(item, h5py.Dataset):
            found[name] = item[()]

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def assert_same_weights(one, other):
    expected, found = read_weights(one), read_weights(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.slow
def test_killed_runs_end_with_the_bits_of_an_unbroken_one(tmp_path):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finish(FIT, whole)
    rng = random.Random(0)
    for while_writing in (False, True, True):
        kill(FIT, broken, broken, rng, while_writing)
        assert run_checkpoints.load_newest(broken)
    finish(FIT, broken)
    assert_same_weights(whole / "final.weights.h5", broken / "final.weights.h5")


@pytest.mark.exhaustive
def test_a_whole_run_survives_twenty_kills(tmp_path):
    """Training, evaluation, export and verification, killed at any moment of them."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    started = time.monotonic()
    finish(TRAIN, whole)
    seconds = time.monotonic() - started
    rng = random.Random(1)
    for count in range(20):
        if count < 8:
            kill(TRAIN, broken, tmp_path / "broken.partial", rng, while_writing=count % 2 == 0)
        else:
            child = start(TRAIN, broken)
            time.sleep(rng.uniform(0, seconds))
            child.kill()
            child.communicate()
        # The output is complete, or it would not be there.
        assert broken.exists() or run_checkpoints.load_newest(tmp_path / "broken.partial")
    finish(TRAIN, broken)
    assert not (tmp_path / "broken.partial").exists()
    extracted = []
    for path in (whole, broken):
        with zipfile.ZipFile(path / "model.keras") as archive:
            extracted.append(archive.extract("model.weights.h5", tmp_path / f"{path.name}-weights"))
    assert_same_weights(*extracted)
    one, other = (read_report(path / "report.json") for path in (whole, broken))
    assert one.settings == other.settings
    for file, same in zip(one.export.files, other.export.files, strict=True):
        assert (file.name, file.accuracy, file.agreement) == (
            same.name,
            same.accuracy,
            same.agreement,
        )
    assert (whole / "history.csv").read_text() == (broken / "history.csv").read_text()


class Killed(Exception):  # noqa: N818  what happened, not an error of the code
    pass


def test_an_unfinished_run_is_never_lost_by_mistake(small, tmp_path, monkeypatch):
    save = run_checkpoints.save

    def save_and_die(*arguments):
        save(*arguments)
        raise Killed

    monkeypatch.setattr(run_checkpoints, "save", save_and_die)
    output, partial = tmp_path / "run", tmp_path / "run.partial"

    def begin(if_exists="fail", seed=0, **values):
        train(
            "digits",
            small,
            recipe("small", **{"epochs": 1, "batch_size": 64, **values}),
            image_size=32,
            output=output,
            if_exists=if_exists,
            config=TrainConfig(seed=seed, checkpoint_seconds=0),
        )

    with pytest.raises(Killed):
        begin()
    newest = run_checkpoints.newest_step(partial)
    assert newest == 1
    with pytest.raises(InputError, match=r"unfinished run .*--resume .*--overwrite"):
        begin()
    with pytest.raises(InputError, match="has seed=0 and not 5; resume it with the options"):
        begin("resume", seed=5)
    with pytest.raises(InputError, match=r"has recipe.label_smoothing=0\.1 and not 0\.2"):
        begin("resume", label_smoothing=0.2)
    assert run_checkpoints.newest_step(partial) == newest
    with pytest.raises(Killed):
        begin("resume")
    assert run_checkpoints.newest_step(partial) == 2
    with pytest.raises(Killed):
        begin("overwrite")
    assert run_checkpoints.newest_step(partial) == 1
    assert not output.exists()


def test_what_is_there_is_not_taken_for_a_finished_run(tmp_path):
    (tmp_path / "precious.txt").write_text("mine")
    with pytest.raises(InputError, match="no run of this version wrote it"):
        train("digits", "B0", output=tmp_path, if_exists="resume")
    assert (tmp_path / "precious.txt").read_text() == "mine"


SETTINGS = RunSettings(
    variant="B0",
    data="folder:photos",
    train_images=1437,
    image_size=48,
    train_image_size=48,
    seed=0,
    weights=None,
    recipe={},
    precision="float32",
    accumulation=1,
    class_weights=False,
    class_names=("cat", "dog"),
    listing="of the photos",
)


def test_the_same_images_are_resumed_under_another_path(tmp_path):
    output = tmp_path / "run"
    with pytest.raises(Killed), open_run_folder(output, SETTINGS, "fail") as folder:
        (folder.path / "step-000000001.safetensors").touch()
        raise Killed
    moved = dataclasses.replace(SETTINGS, data="folder:./album/../photos")
    with pytest.raises(Killed), open_run_folder(output, moved, "resume") as folder:
        assert not folder.finished
        raise Killed
    for changes in (
        {"class_names": ("dog", "cat")},
        {"listing": "of others"},
        {"data": "csv:photos.csv", "listing": ""},
    ):
        other = dataclasses.replace(SETTINGS, **changes)
        with (
            pytest.raises(InputError, match=f"The run in this folder has {next(iter(changes))}="),
            open_run_folder(output, other, "resume"),
        ):
            pass


def test_two_runs_into_one_folder_do_not_mix(small, tmp_path):
    output = tmp_path / "run"
    with open_run_folder(output, SETTINGS, "fail") as folder:
        (folder.path / "checkpoint").write_text("mine")
        with pytest.raises(InputError, match="Another run is at work in"):
            train("digits", small, output=output, if_exists="overwrite")
        assert (folder.path / "checkpoint").read_text() == "mine"
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_asks_for_weights():
    with pytest.raises(InputError, match="--weights"):
        train("digits", "B0", recipe("finetune"))


@pytest.mark.parametrize("removes_open_files", [True, False])  # as on Windows
def test_the_lock_is_free_before_the_folder_goes_where_it_must_be(
    tmp_path, monkeypatch, removes_open_files
):
    monkeypatch.setattr(run_folder, "_REMOVES_OPEN_FILES", removes_open_files)
    partial, rmtree, free = tmp_path / "out.partial", shutil.rmtree, []

    def remove(path, **options):
        if path == partial:
            try:
                with FileLock(partial / "lock", timeout=0):
                    free.append(True)
            except Timeout:
                free.append(False)
        rmtree(path, **options)

    monkeypatch.setattr(shutil, "rmtree", remove)
    with open_run_folder(tmp_path / "out", SETTINGS, "fail") as folder:
        (folder.path / "output").mkdir()
    assert free == [not removes_open_files]
    assert not partial.exists()
