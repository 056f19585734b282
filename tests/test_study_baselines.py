import json

import pytest

import keras_efficientnet as ke
from keras_efficientnet import study
from keras_efficientnet.cli import group
from keras_efficientnet.study import paper_tables


@pytest.fixture(scope="module")
def rows():
    return study.compare_networks(["B0", "efficientnet-b3", "resnet50", "MobileNetV1"])


def test_networks_are_counted_and_quoted(rows):
    assert [row["network"] for row in rows] == ["B0", "B3", "ResNet50", "MobileNetV1"]
    assert [row["kind"] for row in rows] == ["efficientnet"] * 2 + ["baseline"] * 2
    b3, resnet = rows[1:3]
    assert b3["multiply_adds"] == ke.cost.network_cost("B3").multiply_adds
    assert (resnet["trainable"], resnet["multiply_adds"]) == (25_583_592, 3_857_973_248)
    assert (resnet["paper_parameters"], resnet["paper_multiply_adds"]) == (26e6, 4.1e9)
    assert resnet["top1"] == {"paper": 76.0, "Keras": 74.9}
    assert rows[0]["latency_ms"] is None


def test_the_claim_is_checked_pair_by_pair(rows):
    claims = {(row["network"], row["baseline"]): row for row in study.efficiency_claims(rows)}
    assert len(claims) == 4
    b0, b3 = claims["B0", "ResNet50"], claims["B3", "ResNet50"]
    assert b0["holds"]
    assert round(b0["fewer_multiply_adds"], 1) == 10.0
    assert round(b0["paper_fewer_multiply_adds"], 1) == 10.5
    assert not b3["holds"]
    assert round(b3["fewer_multiply_adds"], 1) == 2.1
    assert b3["top1_gain"] == pytest.approx(81.1 - 76.0)
    assert claims["B3", "MobileNetV1"]["fewer_multiply_adds"] < 1


def test_an_unknown_network_is_refused():
    with pytest.raises(ke.InputError, match=r"Unknown network 'VGG16'.*ResNet50, DenseNet169"):
        study.compare_networks(["B0", "VGG16"])


def test_the_command_measures_the_exported_file(capsys):
    options = ["compare", "tiny", "--measure", "--repeats", "2", "--json"]
    group.main(options, standalone_mode=False)
    (row,) = json.loads(capsys.readouterr().out)["networks"]
    assert row["latency_ms"] > 0
    assert row["file_size"] > 4 * row["trainable"]
    assert row["peak_memory"] is None or row["peak_memory"] > row["file_size"]


def test_the_command_prints_the_claim(capsys):
    group.main(["compare", "B3", "ResNet50"], standalone_mode=False)
    text = capsys.readouterr().out
    assert "Top-1 of B3: paper v1 / paper v5." in text
    assert text.splitlines()[-2].split() == ["B3", "ResNet50", "2.1x", "2.3x", "2.1x", "+5.1", "no"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNet", "MobileNetV2", "ResNet50", "Xception"])
def test_baselines_run_as_lite_files(name):
    (row,) = study.compare_networks([name], measure=True, repeats=1)
    figures = paper_tables.BASELINES[name].figures
    assert row["multiply_adds"] == pytest.approx(float(figures.multiply_adds), rel=0.1)
    assert row["latency_ms"] > 0
