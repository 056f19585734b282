"""Runs over several devices and hosts, in processes of their own."""

import contextlib
import csv
import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from run_files import RUN_FILES

from keras_efficientnet import InputError
from keras_efficientnet.training import on_hosts, run_checkpoints

# Seconds after which a process counts as hung, also on a machine that is busy with other work.
PATIENCE = 1800
FLOWERS = Path(__file__).parents[2] / "shared" / "data" / "flowers"

needs_jax = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None, reason="jax is not installed"
)
needs_flowers = pytest.mark.skipif(not FLOWERS.exists(), reason="needs the photos in ../shared")

NETWORK = """
import dataclasses, json, os, sys
import keras
import numpy as np
import keras_efficientnet as ke
from keras_efficientnet.training import distribution, fit, on_hosts, over_devices, recipe

b0 = ke.spec.VARIANTS["B0"]
tiny = dataclasses.replace(
    b0, name="tiny", width=0.25, depth=0.3, stages=b0.stages[:2], batch_norm_momentum=0.7
)
"""

# The command line, where B0 is a network that JAX compiles in seconds.
COMMAND = (
    NETWORK
    + """
from keras_efficientnet import cli

ke.spec.VARIANTS["B0"] = dataclasses.replace(tiny, name="B0")
cli.main()
"""
)

# Each device normalizes its own part of the batch, and draws its own dropout: with frozen batch
# normalization and no dropout, two devices have to compute what one does.
MIRRORED = (
    NETWORK
    + """
import tensorflow as tf

(cpu,) = tf.config.list_physical_devices("CPU")
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
data = ke.data.load("csv:" + sys.argv[1])
held_out = ke.data.evaluation_arrays(data.test, 32, 1.0, 99)
chosen = recipe(
    "finetune", batch_size=10, epochs=3, unfreeze_from="block1", ema_decay=0.9,
    learning_rate=0.002, drop_connect_rate=0.0, keep_best=False,
)
runs = []
for devices in (1, 2):
    keras.utils.set_random_seed(1)
    with over_devices(devices):
        assert distribution.device_count() == devices
        model = ke.EfficientNet(
            tiny, input_shape=(32, 32, 3), classes=5, dropout_rate=0.0, drop_connect_rate=0.0
        )
        start = model.get_weights()
        history = fit(model, data, chosen, image_size=32, seed=1, held_out=held_out)
        assert model.distribute_strategy.num_replicas_in_sync == devices
    runs.append((history, model.get_weights()))
moved = max(float(abs(one - other).max()) for one, other in zip(start, runs[0][1]))
apart = max(float(abs(one - other).max()) for one, other in zip(runs[0][1], runs[1][1]))
print(json.dumps({"histories": [runs[0][0], runs[1][0]], "moved": moved, "apart": apart}))
"""
)

HOSTS = (
    NETWORK
    + """
table, output, hosts, process_id = sys.argv[1:]

def work():
    data = ke.data.load("csv:" + table)
    held_out = ke.data.evaluation_arrays(data.test, 32, 1.0, 99)
    chosen = recipe("small", batch_size=10, epochs=2, ema_decay=0.9)
    keras.utils.set_random_seed(1)
    with over_devices():
        model = ke.EfficientNet(tiny, input_shape=(32, 32, 3), classes=5)
        history = fit(model, data, chosen, image_size=32, seed=1, held_out=held_out)
        assert distribution.device_count() == (2 if hosts else 1)
    if sys.platform == "linux":
        threads = [int(thread) for thread in os.listdir("/proc/self/task")]
        policies = {os.sched_getscheduler(thread) for thread in threads}
        assert (os.SCHED_BATCH in policies) == bool(hosts)
    return history, model.get_weights()

history, weights = on_hosts(work, hosts, int(process_id)) if hosts else work()
np.savez(output, *weights, history=json.dumps(history))
"""
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """A table of some photos of five kinds of flowers."""
    path = tmp_path_factory.mktemp("data") / "photos.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "split"))
        for split, count in (("train", 12), ("val", 4)):
            for folder in sorted((FLOWERS / split).iterdir()):
                for photo in sorted(folder.iterdir())[:count]:
                    writer.writerow((photo, folder.name, split))
    return path


def assert_same_history(one, other):
    assert len(one) > 1
    for row, same in zip(one, other, strict=True):
        assert same == pytest.approx(row, abs=1e-4)


@needs_flowers
def test_two_devices_train_as_one(photos, run_python):
    result = json.loads(run_python(MIRRORED, photos).splitlines()[-1])
    one, two = result["histories"]
    assert_same_history(one, two)
    assert result["moved"] > 0.01
    assert result["apart"] < 1e-4


LOST = """
import sys
from keras_efficientnet.errors import RunError
from keras_efficientnet.training import distribution
from keras_efficientnet.training import hosts as processes

hosts, process_id = sys.argv[1:]
processes.HEARTBEAT_SECONDS = 2

def work():
    while True:
        distribution.same_for_all("here")
        print("working", flush=True)

try:
    processes.on_hosts(work, hosts, int(process_id))
except RunError as error:
    print(error)
"""


@contextlib.contextmanager
def on_jax(*command, **options):
    """Runs a process of its own on the JAX backend, and leaves none behind."""
    child = subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    with child:
        try:
            yield child
        finally:
            child.kill()


def finished(child):
    output, complaint = child.communicate(timeout=PATIENCE)
    assert child.returncode == 0, complaint
    return output


def two_addresses():
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        return ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in (one, other))


@needs_jax
@needs_flowers
@pytest.mark.jax
def test_two_processes_train_as_one(photos, tmp_path):
    paths = {name: tmp_path / f"{name}.npz" for name in ("alone", 0, 1)}
    with on_jax("-c", HOSTS, photos, paths["alone"], "", 0) as child:
        finished(child)
    hosts = two_addresses()
    with (
        on_jax("-c", HOSTS, photos, paths[0], hosts, 0) as first,
        on_jax("-c", HOSTS, photos, paths[1], hosts, 1) as second,
    ):
        # What native code says must not mix with what scripts read.
        assert (finished(first), finished(second)) == ("", "")
    alone, *together = ({**np.load(path)} for path in paths.values())
    for part in together:
        assert part.keys() == alone.keys()
        histories = (json.loads(run.pop("history").item()) for run in ({**alone}, part))
        assert_same_history(*histories)
        for name, weights in part.items():
            np.testing.assert_allclose(weights, alone[name], rtol=0, atol=1e-4)


@needs_jax
@pytest.mark.jax
@pytest.mark.parametrize("lost", [0, 1])
def test_a_process_whose_partner_is_killed_says_so(lost):
    hosts = two_addresses()
    with on_jax("-c", LOST, hosts, 0) as first, on_jax("-c", LOST, hosts, 1) as second:
        killed, left = (first, second) if lost == 0 else (second, first)
        for child in (killed, left):
            assert child.stdout
            assert child.stdout.readline() == "working\n"
        killed.kill()
        *_, answer = finished(left).splitlines()
    assert answer == (
        "Another process of the run was lost, and the run ends here; start all processes again "
        "with --resume to go on from the last checkpoint."
    )


@needs_jax
@pytest.mark.jax
def test_a_process_that_finds_no_partner_says_so():
    hosts = two_addresses()
    code = LOST.replace("int(process_id)", "int(process_id), connect_seconds=1")
    with on_jax("-c", code, hosts, 1) as child:
        answer = finished(child)
    assert answer.startswith("Process 1 could not join the 2 processes of the run; check that")
    assert hosts.split(",")[0] in answer


@pytest.mark.parametrize(
    ("hosts", "process_id", "message"),
    [
        ("10.0.0.1", 0, "hosts='10.0.0.1' must be addresses such as"),
        ("10.0.0.1:8476,:8476", 0, "must be addresses such as"),
        ("10.0.0.1:8476, 10.0.0.2:8476", 0, "must be addresses such as"),
        ("10.0.0.1:8476,[::1]:8476", 2, "process_id=2 must be from 0 to 1"),
        ("10.0.0.1:8476", -1, "process_id=-1 must be from 0 to 0"),
    ],
)
def test_wrong_addresses_are_refused(hosts, process_id, message):
    with pytest.raises(InputError, match=message):
        on_hosts(dict, hosts, process_id)


def test_several_hosts_need_the_jax_backend():
    with pytest.raises(InputError, match="Keras runs on tensorflow; set KERAS_BACKEND=jax"):
        on_hosts(dict, "10.0.0.1:8476", 0)


def test_the_jax_backend_needs_jax(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'efficientnet-keras3\[distributed\]'"):
        on_hosts(dict, "10.0.0.1:8476", 0)


def weights_of(model_file, folder):
    with zipfile.ZipFile(model_file) as archive:
        path = archive.extract("model.weights.h5", folder)
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: isinstance(item, h5py.Dataset) and found.update({name: item[()]})
        )
    return found


def history_of(run):
    with (run / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row.pop("stage") for row in rows} == {"train"}
    return [{name: float(value) for name, value in row.items()} for row in rows]


@needs_jax
@needs_flowers
@pytest.mark.jax
@pytest.mark.slow
def test_the_command_over_two_processes_survives_the_loss_of_one(photos, tmp_path):
    """Two processes, one of them killed and both resumed, beside one process."""
    command = ("-c", COMMAND, "train", "--data", f"csv:{photos}", "--image-size", 48)
    command += ("--batch-size", 10, "--epochs", 2, "--set", "ema_decay=0.9")
    command += ("--checkpoint-seconds", 0, "--json", "--resume", "--output", "flowers")
    folders = [tmp_path / name for name in ("alone", "first", "second")]
    for folder in folders:  # as on hosts that share no disk
        folder.mkdir()
    alone, first, second = folders
    with on_jax(*command, cwd=alone) as child:
        expected = json.loads(finished(child))

    @contextlib.contextmanager
    def both():
        hosts = ("--hosts", two_addresses(), "--process-id")
        with (
            on_jax(*command, *hosts, 0, cwd=first) as one,
            on_jax(*command, *hosts, 1, cwd=second) as other,
        ):
            yield one, other

    with both() as (one, other):
        while run_checkpoints.newest_step(first / "flowers.partial") < 2:
            assert one.poll() is None
            time.sleep(0.01)
        other.kill()
        _, complaint = one.communicate(timeout=PATIENCE)
        assert one.returncode == 1
        assert complaint.splitlines()[-1].startswith(
            "Error: Another process of the run was lost, and the run ends here; start all processes"
        )
    assert [path.name for path in first.iterdir()] == ["flowers.partial"]
    assert 2 <= run_checkpoints.newest_step(first / "flowers.partial") < 12
    with both() as (one, other):
        report, nothing = (json.loads(finished(child)) for child in (one, other))
    assert nothing is None
    assert list(second.iterdir()) == []
    assert [path.name for path in first.iterdir()] == ["flowers"]
    assert sorted(path.name for path in (first / "flowers").iterdir()) == RUN_FILES
    files = {file["name"]: file for file in report["export"]["files"]}
    assert files["model_float32.tflite"]["agreement"] == files["saved_model"]["agreement"] == 1
    assert report["export"]["source_accuracy"] == expected["export"]["source_accuracy"]
    assert_same_history(*(history_of(folder / "flowers") for folder in (alone, first)))
    weights, same = (
        weights_of(folder / "flowers" / "model.keras", folder) for folder in (alone, first)
    )
    assert weights.keys() == same.keys()
    for name, value in weights.items():
        np.testing.assert_allclose(same[name], value, rtol=0, atol=1e-4, err_msg=name)
