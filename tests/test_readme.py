"""What the README promises of its first command, where that command has been run."""

import csv
import re
from pathlib import Path

import pytest
from run_files import RUN_FILES

import keras_efficientnet as ke
from keras_efficientnet.report import read_report

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
RUN = ROOT / "saved_models" / "digits-b0"


@pytest.fixture(scope="module")
def report():
    if not (RUN / "report.json").is_file():
        pytest.skip("keras-efficientnet train has not been run here")
    return read_report(RUN / "report.json")


def test_it_opens_with_the_two_commands():
    block = re.search(r"^```sh\n(.*?)```", README, re.MULTILINE | re.DOTALL)
    assert block
    assert block[1].splitlines() == [
        "pip install . && keras-efficientnet train",
        'pip install ".[test]" && pytest',
    ]
    assert len(README[: block.start()].split()) == 2  # the title


def test_the_demonstration_reaches_what_it_promises(report):
    export = report.export
    assert export.source_accuracy == export.file("model.keras").accuracy >= 0.97
    for name in ("saved_model", "model_float32.tflite"):
        assert export.file(name).agreement == 1
    assert abs(export.file("model_int8.tflite").accuracy - export.source_accuracy) <= 0.02
    assert report.data.images["test"] == 360
    assert report.seconds < 900  # a few minutes on two quiet cores, more on busy ones


def test_the_demonstration_leaves_every_file(report):
    assert sorted(path.name for path in RUN.iterdir()) == RUN_FILES
    assert (RUN / "labels.txt").read_text().split() == list("0123456789")
    with (RUN / "history.csv").open() as file:
        assert len(list(csv.DictReader(file))) == report.settings.recipe["epochs"]


def test_the_variant_table_is_that_of_the_cost():
    rows = re.findall(r"^\| (B\d|L2) \| (\d+) \| ([\d,]+) \| ([\d.]+) G \|", README, re.MULTILINE)
    assert [name for name, *_ in rows] == [*(f"B{index}" for index in range(9)), "L2"]
    for name, pixels, trainable, multiply_adds in rows:
        total = ke.cost.network_cost(name)
        assert (total.image_size, total.trainable) == (int(pixels), int(trainable.replace(",", "")))
        assert f"{total.multiply_adds / 1e9:.3g}" == multiply_adds
