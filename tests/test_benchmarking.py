"""Model files measured side by side, by function and by command."""

import json
import sys

import numpy as np
import pytest

from keras_efficientnet import InputError, deploy
from keras_efficientnet.cli import group
from keras_efficientnet.deploy.benchmarking import (
    measure_interleaved,
    ratios,
    single_image_latency,
)

# A "model" that takes a known time for an image, and logs when it is run.
SLEEPER = """
import sys, time
from keras_efficientnet.deploy.benchmarking import serve_model
name, log, seconds = sys.argv[1], sys.argv[2], float(sys.argv[3])
def run(images):
    print("libraries print to standard output")
    with open(log, "a") as file:
        file.write(f"{name}{len(images)} ")
    time.sleep(seconds * len(images))
serve_model(lambda: (run, 8), 5)
"""


def test_programs_are_measured_in_rounds_and_timed_on_their_own(tmp_path):
    log = tmp_path / "log"
    commands = {
        name: [sys.executable, "-c", SLEEPER, name, str(log), str(seconds)]
        for name, seconds in (("a", 0.02), ("b", 0.06))
    }
    figures = measure_interleaved(commands, rounds=2)
    loading = ["a1", "a5", "b1", "b5"]
    rounds = ["a1"] * 4 + ["a5"] + ["b1"] * 4 + ["b5"] + ["a1"] * 4 + ["b1"] * 4
    assert log.read_text().split() == loading + rounds
    for name, seconds in (("a", 0.02), ("b", 0.06)):
        latency = figures[name]["latency_ms"]
        assert (
            1000 * seconds <= latency["min"] <= latency["p50"] <= latency["p90"] <= latency["p99"]
        )
        assert figures[name]["load_seconds"] >= seconds
        assert 0 < figures[name]["images_per_second"] <= 1 / seconds
        assert len(figures[name]["rounds_ms"]) == 2


def test_ratios_are_taken_pair_by_pair():
    assert ratios([2, 9, 8], [1, 3, 4]) == {"median": 2, "lowest": 2, "highest": 3}


def test_files_side_by_side(model_files):
    models = [model_files["float32"], model_files["int8"]]
    report = deploy.benchmark(models, threads=[1, 2], repeats=3, batch=4)
    results = report["results"]
    assert [(row["model"], row["threads"]) for row in results] == [
        (str(model), threads) for model in models for threads in (1, 2)
    ]
    for row in results:
        assert set(row) == {
            *("model", "threads", "size", "load_seconds", "latency_ms", "images_per_second"),
            *("peak_memory", "speedup"),
        }
        latency = row["latency_ms"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"]
        assert row["load_seconds"] > 0
        assert row["images_per_second"] > 0
        assert 1e7 < row["peak_memory"] < 1e9
    for row in results[:2]:
        assert row["speedup"] == {"median": 1, "lowest": 1, "highest": 1}
        assert row["size"] == models[0].stat().st_size
    assert results[2]["speedup"]["lowest"] > 0
    json.dumps(report)


def test_one_file_is_timed_on_one_image(model_files):
    image = np.zeros((64, 64, 3), np.uint8)
    for name in ("float32", "saved_model"):
        assert 0 < single_image_latency(model_files[name], image) < 60_000


def test_what_cannot_be_measured_is_one_sentence(model_files, tmp_path):
    (tmp_path / "broken.tflite").write_bytes(b"TFL3 not really" * 9)
    good = model_files["float32"]
    for call, message in (
        (lambda: deploy.benchmark([good, tmp_path / "none.tflite"]), r"none\.tflite' does not"),
        (lambda: deploy.benchmark([tmp_path / "broken.tflite"]), "Cannot load model"),
        (lambda: deploy.benchmark([good], repeats=0), "repeats=0 must be at least 1"),
        (lambda: deploy.benchmark([good], threads=[1, 0]), "threads=0 must be at least 1"),
        (lambda: deploy.benchmark([]), "at least one model"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_the_command_prints_a_whole_table(model_files, capsys):
    arguments = ["benchmark", str(model_files["int8"]), "--repeats", "2", "--batch", "2"]
    group.main([*arguments, "--threads", "1"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    text = " ".join(lines)
    assert "p50 / p90 / p99" in text
    assert "1.00x" in text
    assert "2 rounds" in text
    assert "…" not in text
    group.main([*arguments, "--threads", "1", "--json"], standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert row["model"] == str(model_files["int8"])
