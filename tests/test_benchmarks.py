"""The benchmark scripts run in their smallest mode, and write what they print."""

import importlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

import keras_efficientnet as ke

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def run(tmp_path):
    """Runs a script as its user does, and returns its figures and what it printed."""

    def run(name, *options):
        figures = tmp_path / "figures.json"
        command = [sys.executable, BENCHMARKS / f"{name}.py", "--json", figures, *options]
        done = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, timeout=1800, check=False
        )
        assert done.returncode == 0, done.stderr
        return json.loads(figures.read_text(encoding="utf-8")), done.stdout

    return run


def names(report):
    return [(line["figure"], line["peer"]) for line in report["results"]]


def test_every_script_says_how_it_is_run_and_is_in_the_readme():
    text = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    for script in BENCHMARKS.glob("*.py"):
        if script.stem != "peers":
            assert f"python benchmarks/{script.name}" in script.read_text(encoding="utf-8")
            assert f"python benchmarks/{script.name}" in text


def test_the_pairs_of_a_report(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    peers = importlib.import_module("peers")

    fast = peers.row("images/s", "other", [4, 9, 8], [2, 3, 4], at_least=2.5)
    assert fast["ratio"] == {"median": 2, "lowest": 2, "highest": 3}
    assert (fast["to_reach"], fast["reached"]) == (">= 2.5", False)
    small = peers.row("memory", "other", [1, 1], [2, 4], at_most=0.5)
    assert (small["to_reach"], small["reached"]) == ("<= 0.5", True)
    assert "reached" not in peers.row("memory", "other", [1], [2])


@pytest.mark.slow
def test_fine_tuning(run):
    flowers = Path(__file__).resolve().parents[2] / "shared" / "data" / "flowers"
    if not flowers.is_dir():
        pytest.skip("the flowers are not there")
    report, printed = run(
        *("fine_tuning", "--data", f"folder:{flowers}", "--methods", "probe", "finetune"),
        *("--seeds", 1, "--shots", 4, "--settings", "epochs=1"),
    )
    probe, tuned = report["runs"]
    assert (probe["method"], probe["shots"], tuned["method"]) == ("probe", 4, "finetune")
    assert 0.5 < probe["accuracy"] <= tuned["accuracy"] <= 1
    assert (len(probe["curve"]), len(tuned["curve"])) == (1, 2)
    assert "flowers" in printed


@pytest.mark.exhaustive
def test_training_step(run):
    if importlib.util.find_spec("timm") is None:  # which may not import without `peers`
        pytest.skip("timm is not installed")
    options = ("--image-size", 32, "--batch-size", 2, "--turns", 1, "--rounds", 1)
    report, printed = run("training_step", *options)
    peers = ["keras.applications", "timm"]
    figures = ("images/s of wall time", "images/s of CPU time", "peak memory")
    assert names(report) == [(figure, peer) for figure in figures for peer in peers]
    assert all(line["ratio"]["lowest"] > 0 for line in report["results"])
    assert "peak memory / keras.applications" in printed


@pytest.mark.slow
def test_scaling_cost(run, tmp_path):
    picture = tmp_path / "picture.svg"
    options = ("--small", "--along", "batch", "--turns", 1, "--plot", picture)
    report, printed = run("scaling_cost", *options)
    two, four = report["points"]
    assert (two["at"], four["at"]) == (2, 4)
    assert four["predicted_time"] == 2 * two["predicted_time"]
    assert two["predicted_time"] == 2 * ke.cost.network_cost("B0", 32).multiply_adds
    assert min(two["time"], two["memory"]) > 0
    assert picture.read_text(encoding="utf-8").startswith("<svg")
    assert "batch 4" in printed


@pytest.mark.slow
def test_weight_loading(run):
    report, printed = run("weight_loading", "--variant", "B0", "--repeats", 1)
    assert names(report) == [("load B0", "keras.applications")]
    assert min(report["copies_in_memory"].values()) > 0.5
    assert "Copies of the weights in memory: keras_efficientnet" in printed


@pytest.mark.exhaustive
def test_startup(run):
    report, _ = run("startup", "--build", "B0", "--export", "B0", "--turns", 1)
    assert [figure for figure, _ in names(report)] == [
        *("import keras_efficientnet", "info B7", "--help"),
        *("build B0", "export_tflite B0", "export B0"),
    ]


@pytest.mark.exhaustive
def test_processes(run):
    pytest.importorskip("jax")
    small = ("--image-size", 32, "--batch-size", 2, "--steps", 1, "--epochs", 2, "--rounds", 1)
    report, _ = run("processes", "--variant", "tiny", *small)
    assert names(report) == [("speed of two processes", "one")]
    assert len(report["seconds_an_epoch"]["two processes"]) == 1


@pytest.mark.slow
def test_gpu_training_without_a_gpu(run):
    report, printed = run(
        "gpu_training",
        *("--device", "cpu", "--variants", "B0", "--networks", "keras_efficientnet"),
        *("--image-size", 32, "--batch-size", 2, "--max-batch", 2, "--steps", 1, "--turns", 1),
    )
    (variant,) = report["variants"]
    network = variant["networks"]["keras_efficientnet"]
    assert network["largest_batch"] == 2
    assert network["images_per_second"]["2"] > 0
    assert variant["pipeline_images_per_second"] > 0
    assert "B0, keras_efficientnet, batch 2:" in printed
