"""The command line."""

import dataclasses
import json
import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image
from run_files import RUN_FILES

import keras_efficientnet as ke
from keras_efficientnet import deploy, spec
from keras_efficientnet.cli import group
from keras_efficientnet.data.pipeline import evaluation_arrays
from keras_efficientnet.description import read_description
from keras_efficientnet.report import read_report
from keras_efficientnet.run import train
from keras_efficientnet.training import fit, recipe

COLOURS = {"blue": (0, 0, 255), "grün": (0, 255, 0), "red": (255, 0, 0)}


pytest_plugins = "cli_helpers"

# Where B0 has fewer channels and blocks, and trains in seconds.
SMALL_B0 = """
import dataclasses
import keras_efficientnet as ke
from keras_efficientnet import cli

b0 = ke.spec.VARIANTS["B0"]
ke.spec.VARIANTS["B0"] = dataclasses.replace(b0, width=0.25, depth=0.3)
cli.main()
"""


def cli(*arguments, code="from keras_efficientnet import cli; cli.main()", **environment):
    """Runs the command line in a process of its own, for what could depend on that."""
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=600,
        check=False,
    )


@pytest.fixture
def small_b0(small, tmp_path, monkeypatch):
    """Makes B0 the smallest net, which trains in seconds, and an empty folder the current one."""
    monkeypatch.setitem(spec.VARIANTS, "B0", dataclasses.replace(small, name="B0"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Three classes told apart by their colour, with a little noise; one file is damaged."""
    root = tmp_path_factory.mktemp("data") / "colours"
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(20):
            noisy = np.clip(np.array(colour) + rng.normal(0, 30, (48, 40, 3)), 0, 255)
            Image.fromarray(noisy.astype(np.uint8)).save(root / name / f"{index}.jpg")
    (root / "red" / "damaged.jpg").write_bytes(b"no image")
    return root


class Colours(tfds.core.GeneratorBasedBuilder):
    """The same, as tensorflow-datasets prepares data; the command finds it by its files."""

    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, photos, **options):
        self.photos = photos
        super().__init__(**options)

    def _info(self):
        features = {
            "image": tfds.features.Image(),
            "label": tfds.features.ClassLabel(names=list(COLOURS)),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(16)),
            "test": self._generate_examples(range(16, 20)),
        }

    def _generate_examples(self, indices):
        for name in COLOURS:
            for index in indices:
                path = self.photos / name / f"{index}.jpg"
                yield str(path), {"image": path, "label": name}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, small, photos):
    """A whole run of the smallest net, through the function that `train` calls."""
    output = tmp_path_factory.mktemp("run") / "colours-small"
    options = {"epochs": 30, "batch_size": 12, "base_learning_rate": 0.02}
    train(
        f"folder:{photos}",
        small,
        # Moving statistics that keep up with a run of some twenty steps.
        recipe("small", batch_norm_momentum=0.7, **options),
        image_size=32,
        output=output,
    )
    return output


def test_a_run_leaves_everything_it_promises(trained, photos):
    assert sorted(path.name for path in trained.iterdir()) == RUN_FILES
    page = (trained / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in ("EfficientNet-small", "saved_model", *COLOURS))
    report = read_report(trained / "report.json")
    settings, export = report.settings, report.export
    assert (settings.variant, settings.image_size, settings.seed) == ("small", 32, 0)
    assert (settings.recipe["epochs"], report.data.images) == (30, {"train": 48, "test": 12})
    assert report.data.classes["test"] == dict.fromkeys(COLOURS, 4)
    (left_out,) = report.data.left_out
    assert left_out.path == str(photos / "red" / "damaged.jpg")
    assert "is not an image that can be read" in left_out.reason
    assert [file.name for file in export.files] == [
        "model.keras",
        "saved_model",
        "model_float32.tflite",
        "model_int8.tflite",
    ]
    assert all(file.latency_ms for file in export.files)
    assert export.file("model_float32.tflite").agreement == 1
    assert export.file("saved_model").agreement == 1
    assert export.file("model.keras").accuracy == export.source_accuracy
    assert (export.source_accuracy or 0) > 0.6  # 1/3 by chance
    assert export.file("model.keras").size == (trained / "model.keras").stat().st_size
    assert (export.directory, export.failed) == (str(trained), ())
    assert (export.images, export.reported_images) == (6, 6)
    assert export.preprocessing == "inside the graph"
    assert report.evaluation
    assert report.evaluation.file == "model_float32.tflite"
    assert report.evaluation.result.accuracy > 0.6
    assert np.sum(report.evaluation.matrix) == 12
    labels = (trained / "labels.txt").read_text(encoding="utf-8").splitlines()
    assert labels == list(COLOURS)
    card = (trained / "model_card.md").read_text(encoding="utf-8")
    for text in (
        "EfficientNet-small for 3 classes, trained on 48 images of colours by the recipe small.",
        "48 images of colours for training and 12 held out (20 % of each class held out).",
        "Classes: blue, grün, red.",
        "epochs = 30",
        "| `model_int8.tflite` |",
        "| 6 held-out images, accuracy on 6 |",
    ):
        assert text in card
    description = read_description(trained / "model_int8.tflite")
    assert description
    assert description.data.startswith("48 images of colours")
    rows = (trained / "history.csv").read_text().splitlines()
    assert rows[0].split(",")[:5] == ["epoch", "stage", "image_size", "accuracy", "loss"]
    assert "learning_rate" in rows[0]
    assert len(rows) == 31


def test_the_same_seed_gives_the_same_weights(small, photos):
    data = ke.data.load(f"folder:{photos}")
    held_out = evaluation_arrays(data.test, 32, data.crop_fraction, 99)

    def weights(seed):
        keras.utils.set_random_seed(seed)
        model = ke.EfficientNet(small, classes=3, input_shape=(32, 32, 3))
        chosen = recipe("small", epochs=2, batch_size=12)
        fit(model, data, chosen, image_size=32, seed=seed, held_out=held_out)
        return np.concatenate([value.ravel() for value in model.get_weights()])

    first, second, other = weights(5), weights(5), weights(6)
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("name", ["model.keras", "saved_model", "model_float32.tflite"])
def test_evaluate_gives_the_accuracy_of_the_report(answer, trained, photos, name):
    evaluation = read_report(trained / "report.json").evaluation
    assert evaluation
    result = answer("evaluate", trained / name, "--data", f"folder:{photos}", "--json")
    assert result["images"] == evaluation.result.images == 12
    assert result["accuracy"] == pytest.approx(evaluation.result.accuracy)
    assert set(result["classes"]) == set(COLOURS)


@pytest.mark.parametrize("name", ["model.keras", "saved_model", "model_int8.tflite"])
def test_predict_needs_nothing_but_the_file(answer, trained, photos, name):
    files = [photos / colour / "0.jpg" for colour in COLOURS]
    results = answer("predict", trained / name, *files, "--top", 2, "--json")
    assert [result["file"] for result in results] == [str(file) for file in files]
    predictor = deploy.Predictor(trained / name)
    for result, file in zip(results, files, strict=True):
        expected = predictor.classify(file, 2)
        assert [row["label"] for row in result["top"]] == [label for label, _ in expected]
        scores = [row["score"] for row in result["top"]]
        np.testing.assert_allclose(scores, [score for _, score in expected], atol=1e-6)


@pytest.mark.slow
def test_published_weights_are_exported_by_their_name(answer, tmp_path, monkeypatch):
    """Into the folder that the command runs in, not into the cache."""
    monkeypatch.chdir(tmp_path)
    report = answer("export", "imagenet", "--json")
    assert [file["name"] for file in report["files"]] == ["model_float32.tflite"]
    found = read_description(tmp_path / "model_float32.tflite")
    assert found
    assert (found.image_size, found.class_names[0]) == (224, "tench")


def test_export_and_tables(answer, trained, photos, tmp_path):
    labels = tmp_path / "names.txt"
    labels.write_text("bleu\nvert\nrouge\n", encoding="utf-8")
    report = answer(
        *("export", trained / "model.keras", "--quantize", "int8", "--quantize", "int16x8"),
        *("--calibration", f"folder:{photos}", "--output", tmp_path, "--json"),
    )
    for kind, file in zip(("int8", "int16x8"), report["files"], strict=True):
        assert (file["name"], file["number_format"]) == (f"model_{kind}.tflite", kind)
        assert (tmp_path / file["name"]).stat().st_size == file["size"]
        assert file["operators"]["DEPTHWISE_CONV_2D"]
        assert file["accuracy"] is not None
    assert report["source_accuracy"] > 0.6

    # Export goes through TensorFlow where another backend trains.
    table = cli(
        *("export", trained / "model.keras", "--format", "saved_model", "--format", "tflite"),
        *("--output", tmp_path, "--labels", labels, "--license", "MIT", "--dynamic-batch"),
        KERAS_BACKEND="jax",
    )
    assert table.returncode == 0, table.stderr
    for text in (
        "saved_model",
        "100.0 %",
        "Compared on 16 images of random pixels",
        "DEPTHWISE_CONV_2D",
    ):
        assert text in table.stdout
    description = read_description(tmp_path / "model_float32.tflite")
    assert description
    assert (description.license, description.class_names) == ("MIT", ("bleu", "vert", "rouge"))
    prediction = cli("predict", tmp_path / "saved_model", photos / "red" / "0.jpg")
    assert prediction.returncode == 0
    assert "vert" in prediction.stdout
    card = (tmp_path / "model_card.md").read_text(encoding="utf-8")
    for file in ("model_int8.tflite", "model_int16x8.tflite", "saved_model"):
        assert f"| `{file}` |" in card


def test_training_by_command_on_given_weights(answer, small_b0, trained, photos):
    report = answer(
        *("train", "--data", f"folder:{photos}", "--model", "B0", "--image-size", 32),
        *("--epochs", 1, "--batch-size", 24, "--learning-rate", 0.001, "--seed", 3),
        *("--weights", trained / "model.keras", "--json"),
    )
    output = report["export"]["directory"]
    assert output == os.path.join("saved_models", "colours-b0")
    written = (small_b0 / output / "report.json").read_text(encoding="utf-8")
    assert json.loads(written) == report
    settings = report["settings"]
    assert (settings["variant"], settings["seed"]) == ("B0", 3)
    assert (settings["recipe"]["batch_size"], settings["recipe"]["learning_rate"]) == (24, 0.001)


def test_info_needs_no_tensorflow_and_equals_the_cost(answer, command, run_python):
    result = answer("info", "B3", "--json")
    total = ke.cost.network_cost("B3")
    assert result["trainable"] == total.trainable == 12_233_232
    assert result["multiply_adds"] == total.multiply_adds
    assert len([part for part in result["parts"] if "block" in part]) == 26
    small = answer("info", "efficientnetb0", "--image-size", 32, "--classes", 10, "--json")
    assert small["parameters"] == ke.cost.network_cost("B0", classes=10).parameters
    _, table, _ = command("info", "B0")
    for text in ("block7a", "1,281,000", "5,288,548 trainable", "0.386 G multiply-adds"):
        assert text in table
    run_python(
        """
import sys
from keras_efficientnet.cli import group
group.main(["info", "B7", "--json"], standalone_mode=False)
assert "tensorflow" not in sys.modules and "keras" not in sys.modules
"""
    )


def test_weights_are_listed_inspected_and_converted(answer, command, complaint, tmp_path):
    listed = answer("weights", "list", "v2s", "--json")
    assert [entry["name"] for entry in listed if entry["source"] == "Keras"] == ["imagenet"]
    assert {entry["variant"] for entry in listed} == {"V2-S"}
    assert "noisy-student" in command("weights", "list")[1]

    file = tmp_path / "peer.h5"
    peer = keras.applications.EfficientNetB0(weights=None, input_shape=(32, 32, 3), classes=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras calls its own .h5 format legacy
        peer.save(file)
    found = answer("weights", "inspect", file, "--json")
    assert (found["variant"], found["fits"], found["classes"]) == ("B0", True, 7)
    assert "classes: 7" in command("weights", "inspect", file)[1]

    output = tmp_path / "b0.weights.h5"
    report = answer("weights", "convert", file, "--model", "B0", "--output", output, "--json")
    assert len(report["loaded"]) == len(ke.EfficientNetB0(weights=None).weights)
    assert ke.EfficientNetB0(weights=output, classes=7).count_params()
    assert "does not fit" in complaint(
        *("weights", "convert", file, "--model", "B1", "--output", tmp_path / "b1.keras")
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b0.weights.h5", "peer.h5"]


def test_help_names_every_command_and_needs_no_heavy_library(command, run_python):
    commands = ("train", "evaluate", "predict", "export", "info", "weights")
    for name in commands:
        assert "Usage" in command(name, "--help")[1]
    for name in ("export", "predict", "benchmark"):  # each example has a line of its own
        assert f"\n    keras-efficientnet {name} model" in command(name, "--help")[1]
    text = run_python(
        """
import sys
from keras_efficientnet.cli import group
group.main(["--help"], standalone_mode=False)
assert not {"tensorflow", "keras", "numpy", "matplotlib", "PIL"} & set(sys.modules)
"""
    )
    assert all(name in text for name in commands)


def test_bad_input_ends_in_one_sentence(complaint, trained, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = trained / "model_float32.tflite"
    for arguments, message in (
        (["info", "B9"], "Unknown variant 'B9'"),
        (["info", "B0", "--image-size", 0], "image_size=0"),
        (["frobnicate"], "No such command 'frobnicate'"),
        (["train", "--model", "B99"], "Unknown variant 'B99'"),
        (["train", "--epochs", "many"], "many"),
        (["train", "--data", f"folder:{tmp_path / 'none'}"], "does not exist"),
        (["train", "--epochs", 0], "epochs=0 must be at least 1"),
        (["train", "--data", f"folder:{photos}", "--strict-data"], "damaged.jpg"),
        (["train", "--image-size", 16], "at least 32 pixels"),
        (["train", "--weights", "none.weights.h5"], "none.weights.h5"),
        (["evaluate", model], "--data"),
        (["evaluate", tmp_path / "none.tflite", "--data", "digits"], "does not exist"),
        (["evaluate", model, "--data", "digits"], "'0' is not among the model's: blue, grün, red"),
        (["predict", model, tmp_path / "none.jpg"], "none.jpg does not exist"),
        (["export", model, "--output", tmp_path], "cannot be exported"),
        (["export", trained / "model.keras", "--quantize", "int8"], "--calibration"),
        (["export", trained / "model.keras", "--format", "onnx", "--quantize", "int8"], "--format"),
        (["export", trained / "model.keras", "--labels", "none.txt"], "--labels 'none.txt' cannot"),
    ):
        assert message in complaint(*arguments)
    assert list(tmp_path.rglob("*")) in ([], [tmp_path / "saved_models"])
    alone = cli("info", "B9")
    assert (alone.returncode, alone.stdout) == (2, "")
    assert alone.stderr.startswith("Error: Unknown variant 'B9'")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--recipe", "tiny"], "choose paper, small, finetune, probe, v2-progressive"),
        (
            ["--recipe", "finetune", "--weights", "none"],
            "needs weights to start from; pass --weights",
        ),
        (["--set", "magnitude"], "NAME=VALUE"),
        (["--set", "magnitud=3"], "no 'magnitud'; it has .*magnitude"),
        (["--set", "progressive.magnitude=5"], "no 'progressive.magnitude'; it has"),
        (["--set", "policy=random"], "policy='random' must be one of none, rand, auto"),
        (["--set", "epochs=many"], "epochs='many' must be a whole number"),
        (["--precision", "int4"], "precision='int4' must be one of float32"),
        (["--accumulation", "0"], "accumulation=0 must be at least 1"),
        (["--hosts", "a:1"], "--hosts and --process-id go together"),
        (["--devices", "99"], "devices=99 must be from 1 to 1"),
    ],
)
def test_options_of_training_are_checked_one_by_one(options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ke.InputError, match=message):
        group.main(["train", *options], standalone_mode=False)
    assert not list(tmp_path.rglob("*.*"))


def test_single_values_of_a_recipe_can_be_set_and_data_be_prepared(trained, photos, tmp_path):
    prepared = tmp_path / "prepared"
    Colours(photos, data_dir=prepared).download_and_prepare()
    run = cli(
        *("train", "--data", "tfds:colours", "--image-size", 32, "--recipe", "paper"),
        # A network that knows the colours already stays one: exporting another takes long.
        *("--weights", trained / "model.keras", "--model", "B0", "--learning-rate", 1e-6),
        *("--epochs", 1, "--batch-size", 24, "--set", "policy=rand", "--set", "magnitude=7"),
        *("--set", "ema_decay=0.5", "--set", "batch_norm_momentum=0.5", "--class-weights"),
        *("--accumulation", 2, "--tensorboard", "--output", tmp_path / "run", "--json"),
        code=SMALL_B0,
        TFDS_DATA_DIR=str(prepared),
    )
    assert run.returncode == 0, run.stderr
    report = json.loads(run.stdout)
    # The run prints what its recipe resolved to before it begins.
    for line in ("Recipe paper", "  policy = rand", "  rho = 0.9", "  train: 1 epochs at 32 px"):
        assert line in run.stderr
    assert report["data"]["source"] == report["settings"]["data"] == "tfds:colours"
    assert report["data"]["images"] == {"train": 48, "test": 12}
    used = report["settings"]["recipe"]
    assert used["name"] == "paper"
    assert (used["augmentation"]["policy"], used["augmentation"]["magnitude"]) == ("rand", 7)
    assert (used["ema_decay"], report["settings"]["accumulation"]) == (0.5, 2)
    assert list((tmp_path / "run" / "tensorboard").rglob("events.*"))
    result = cli(
        *("evaluate", tmp_path / "run/model_float32.tflite", "--data", "tfds:colours", "--json"),
        TFDS_DATA_DIR=str(prepared),
    )
    measured = json.loads(result.stdout)
    assert measured["images"] == 12
    assert measured["accuracy"] == report["evaluation"]["result"]["accuracy"]


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_nothing(
    complaint, small_b0, photos, tmp_path
):
    line = complaint(
        *("train", "--data", f"folder:{photos}", "--image-size", 32, "--epochs", 2),
        *("--batch-size", 12, "--learning-rate", 1e30, "--output", tmp_path / "run"),
        returncode=1,
    )
    assert "The loss became" in line
    assert "--learning-rate" in line
    assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_refused_before_any_work(complaint, trained, photos):
    before = {path: path.stat().st_mtime for path in trained.iterdir()}
    line = complaint("train", "--data", f"folder:{photos}", "--output", trained)
    assert "--overwrite" in line
    assert {path: path.stat().st_mtime for path in trained.iterdir()} == before


def test_variants_on_the_command_line_are_those_of_the_spec(complaint):
    line = complaint("info", "nonsense")
    assert all(name in line for name in spec.VARIANTS)
