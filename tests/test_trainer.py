import dataclasses
import importlib.util
import os
import re
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow_datasets as tfds
from keras import layers

import keras_efficientnet as ke
from keras_efficientnet import InputError
from keras_efficientnet.data.pipeline import training_batches
from keras_efficientnet.data.sources import ArrayExamples, Dataset
from keras_efficientnet.data.tfds import from_builder
from keras_efficientnet.errors import RunError, StoppedRun
from keras_efficientnet.training import (
    RunConfig,
    compile_model,
    fit,
    learning_rates,
    recipe,
    run_checkpoints,
)

CLASSES = 3
BATCH = 8


@pytest.fixture(scope="module")
def data():
    """Forty squares of three colours in random noise."""
    rng = np.random.default_rng(0)
    labels = np.arange(48) % CLASSES
    pixels = rng.integers(0, 120, (48, 40, 40, 3))
    pixels[np.arange(48), :, :, labels] += 100
    images = pixels.astype(np.uint8)
    return Dataset(
        "squares",
        "squares",
        ("red", "green", "blue"),
        ArrayExamples(images[:40], labels[:40]),
        ArrayExamples(images[40:], labels[40:]),
        crop_fraction=1.0,
        mirror=True,
    )


@pytest.fixture(scope="module")
def held_out(data):
    return np.stack([np.asarray(image) for image, _ in data.test]), data.test.labels


@pytest.fixture(scope="module")
def tiny(small):
    stages = small.stages[:2]
    return dataclasses.replace(small, name="tiny", stages=stages, batch_norm_momentum=0.7)


def network(tiny, size=None, seed=3, **options):
    keras.utils.set_random_seed(seed)
    return ke.EfficientNet(tiny, input_shape=(size, size, 3), classes=CLASSES, **options)


def linear():
    """A classifier without batch normalization or randomness, for exact comparisons."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((40, 40, 3)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(CLASSES, activation="softmax", name="predictions"),
        ]
    )


class Killed(Exception):  # noqa: N818  what happened, not an error of the code
    pass


@pytest.fixture
def kill_after(monkeypatch):
    """Ends a run right after it has written its checkpoint of a step."""
    save = run_checkpoints.save

    def kill_after(step):
        def save_and_die(folder, at, *arguments):
            path = save(folder, at, *arguments)
            if at == step:
                raise Killed
            return path

        monkeypatch.setattr(run_checkpoints, "save", save_and_die)

    return kill_after


# What a run can be made of: recipe options, and how it is executed.
RUNS = {
    "averaged": (("small", {"ema_decay": 0.9, "epochs": 3}), {}),
    "progressive": (
        ("v2-progressive", {"epochs": 4, "stages": 2, "image_size": 24, "ema_decay": 0.9}),
        {},
    ),
    "fine-tuning": (
        (
            "finetune",
            {
                "epochs": 4,
                "patience": 3,
                "unfreeze_from": "block1",
                "fresh_from": "block2a_project_conv",
            },
        ),
        {},
    ),
    "accumulating": (("small", {"epochs": 3, "l2": 1e-4}), {"accumulation": 2}),
    "several a call": (("small", {"epochs": 3}), {"steps_per_execution": 2}),
    "half precision": (("small", {"epochs": 3}), {"precision": "mixed_float16"}),
}


def run(tiny, data, held_out, kind, folder):
    (name, overrides), options = RUNS[kind]
    run_config = RunConfig(checkpoint_seconds=0, **options)
    keras.config.set_dtype_policy(run_config.precision)
    try:
        model = network(tiny)
        history = fit(
            model,
            data,
            recipe(name, batch_size=BATCH, **overrides),
            image_size=40,
            seed=7,
            held_out=held_out,
            run_config=run_config,
            folder=folder,
        )
    finally:
        keras.config.set_dtype_policy("float32")
    return model.get_weights(), history


@pytest.fixture(scope="module")
def unbroken(tiny, data, held_out, tmp_path_factory):
    """Weights and history of each kind of run, made once."""
    made = {}

    def unbroken(kind):
        if kind not in made:
            made[kind] = run(tiny, data, held_out, kind, tmp_path_factory.mktemp("whole"))
        return made[kind]

    return unbroken


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("averaged", (1, 7, 10)),  # in the first epoch, in the second, between two
        ("progressive", (10, 13)),  # the second stage begins at 10
        ("fine-tuning", (3, 10)),
        pytest.param("accumulating", (7,), marks=pytest.mark.slow),
        pytest.param("several a call", (6,), marks=pytest.mark.slow),
        pytest.param("half precision", (7,), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_ends_as_an_unbroken_one(
    tiny, data, held_out, unbroken, kill_after, tmp_path, kind, steps
):
    weights, history = unbroken(kind)
    for step in steps:  # one run, killed again and again
        kill_after(step)
        with pytest.raises(Killed):
            run(tiny, data, held_out, kind, tmp_path)
    kill_after(None)
    resumed_weights, resumed_history = run(tiny, data, held_out, kind, tmp_path)
    for one, other in zip(weights, resumed_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed_history == history


class Signal(keras.callbacks.Callback):
    """Sends a signal to this process in the middle of a batch."""

    def __init__(self, number, batch):
        super().__init__()
        self.number, self.batch = number, batch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == self.batch:
            os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("batch", [1, 4])  # within an epoch, and its last one
def test_a_run_that_is_asked_to_stop_ends_after_its_step(
    tiny, data, held_out, unbroken, tmp_path, capsys, number, batch
):
    weights, history = unbroken("averaged")
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    (name, overrides), _ = RUNS["averaged"]
    config = RunConfig(callbacks=(Signal(number, batch),))
    chosen = recipe(name, batch_size=BATCH, **overrides)
    options = {"image_size": 40, "seed": 7, "held_out": held_out, "folder": tmp_path}
    with pytest.raises(StoppedRun, match=rf"after step {batch + 1} of 15, .*--resume") as stopped:
        fit(network(tiny), data, chosen, run_config=config, **options)
    assert stopped.value.exit_code == 128 + number
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "Ctrl-C again stops at once" in capsys.readouterr().err
    assert run_checkpoints.newest_step(tmp_path) == batch + 1
    resumed_weights, resumed_history = run(tiny, data, held_out, "averaged", tmp_path)
    for one, other in zip(weights, resumed_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed_history == history


def test_a_second_interrupt_stops_at_once_and_without_a_folder_the_first(
    tiny, data, held_out, tmp_path
):
    twice = (Signal(signal.SIGINT, 1), Signal(signal.SIGINT, 1))
    for callbacks, folder in ((twice, tmp_path), (twice[:1], None)):
        with pytest.raises(KeyboardInterrupt):
            fit(
                network(tiny),
                data,
                recipe("small", batch_size=BATCH, epochs=1),
                image_size=40,
                run_config=RunConfig(callbacks=callbacks),
                folder=folder,
            )


def test_a_killed_run_on_prepared_data_ends_as_an_unbroken_one(
    tiny, data, held_out, kill_after, tmp_path
):
    for split, examples in (("train", data.train), ("test", data.test)):
        for index, (image, label) in enumerate(examples):
            folder = tmp_path / "data" / split / data.class_names[label]
            folder.mkdir(parents=True, exist_ok=True)
            image.save(folder / f"{index}.png")
    prepared = from_builder(tfds.folder_dataset.ImageFolder(str(tmp_path / "data")))
    weights, history = run(tiny, prepared, held_out, "averaged", tmp_path / "whole")
    kill_after(7)
    with pytest.raises(Killed):
        run(tiny, prepared, held_out, "averaged", tmp_path / "broken")
    kill_after(None)
    resumed_weights, resumed_history = run(
        tiny, prepared, held_out, "averaged", tmp_path / "broken"
    )
    for one, other in zip(weights, resumed_weights, strict=True):
        np.testing.assert_array_equal(one, other)
    assert resumed_history == history


@pytest.mark.exhaustive
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="jax is not installed")
def test_killed_runs_end_as_unbroken_ones_on_jax_too():
    kinds = "averaged or accumulating or half"
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-n", "0", "-k", f"killed_run and ({kinds})", __file__],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    assert "3 passed" in result.stdout


def test_a_finished_run_is_not_run_again(tiny, data, held_out, unbroken, tmp_path):
    weights, history = unbroken("averaged")
    run(tiny, data, held_out, "averaged", tmp_path)
    again, same = run(tiny, data, held_out, "averaged", tmp_path)
    for one, other in zip(weights, again, strict=True):
        np.testing.assert_array_equal(one, other)
    assert same == history


def test_a_checkpoint_of_another_network_is_refused(tiny, data, held_out, tmp_path):
    chosen = recipe("small", epochs=1, batch_size=BATCH)
    fit(linear(), data, chosen, image_size=40, folder=tmp_path)
    with pytest.raises(InputError, match="does not fit this run"):
        fit(network(tiny), data, chosen, image_size=40, folder=tmp_path)


def test_the_bar_shows_images_per_second_time_left_and_results(data, held_out, capsys):
    chosen = recipe("small", epochs=2, batch_size=BATCH)
    fit(linear(), data, chosen, image_size=40, held_out=held_out)
    last = capsys.readouterr().err.splitlines()[-1].split("\r")[-1]
    assert re.fullmatch(
        r"Epoch 2/2: 100%\|█+\| 80\.0/80\.0 \[\d\d:\d\d<\d\d:\d\d, +[\d.]+k?img/s, "
        r"loss \d+\.\d{3}, accuracy \d\.\d{3}, val accuracy \d\.\d{3}\]",
        last,
    ), last


def test_the_bar_of_a_resumed_run_begins_where_it_ended(data, kill_after, tmp_path, capsys):
    chosen = recipe("small", epochs=2, batch_size=BATCH)
    options = {"image_size": 40, "run_config": RunConfig(checkpoint_seconds=0), "folder": tmp_path}
    kill_after(7)
    with pytest.raises(Killed):
        fit(linear(), data, chosen, **options)
    kill_after(None)
    capsys.readouterr()
    fit(linear(), data, chosen, **options)
    shown = re.findall(r"([\d.]+)/80\.0 ", capsys.readouterr().err)
    assert (float(shown[0]), float(shown[-1])) == (7 * BATCH, 80)


def test_the_history_has_stage_size_and_rate(unbroken):
    _, history = unbroken("progressive")
    assert [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert [row["image_size"] for row in history] == [30, 30, 40, 40]
    assert [row["stage"] for row in history] == ["stage 1"] * 2 + ["stage 2"] * 2
    # The rate of the step that comes next: the schedule goes on through the stages.
    rates = learning_rates(recipe("v2-progressive", batch_size=BATCH, epochs=5), 5)
    for row in history:
        expected = rates[5 * row["epoch"]]["learning_rate"]
        assert row["learning_rate"] == pytest.approx(expected, rel=1e-5)
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < set(history[0])


@pytest.mark.parametrize("ema_decay", [0.0, 0.5])
def test_it_does_what_a_loop_written_out_does(data, ema_decay):
    """One stage of the loop against Keras' own train_on_batch over the same batches."""
    chosen = recipe("small", epochs=2, batch_size=BATCH, l2=1e-3, ema_decay=ema_decay)
    ours, theirs = linear(), linear()
    fit(ours, data, chosen, image_size=40, seed=5)
    compile_model(theirs, chosen, steps_per_epoch=5)
    batches = training_batches(data, 40, BATCH, 5, augmentation=chosen.augmentation)
    average = theirs.get_weights()[0]
    for step, (images, labels) in enumerate(batches.take(10).as_numpy_iterator(), 1):
        theirs.train_on_batch(images, labels)
        decay = min(ema_decay, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * theirs.get_weights()[0]
    np.testing.assert_allclose(ours.get_weights()[0], average, rtol=0, atol=1e-7)


def test_parts_of_a_batch_give_the_gradient_of_the_whole(data):
    chosen = recipe("small", epochs=2, batch_size=16)
    whole, parts = linear(), linear()
    fit(whole, data, chosen, image_size=40)
    fit(parts, data, chosen, image_size=40, run_config=RunConfig(accumulation=4))
    np.testing.assert_allclose(whole.get_weights()[0], parts.get_weights()[0], atol=1e-6)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_lower_precision_learns_with_float32_weights(tiny, data, policy, precision):
    policy(precision)
    model = network(tiny, 40)
    assert model.get_layer("stem_conv").compute_dtype == precision.removeprefix("mixed_")
    chosen = recipe("small", epochs=2, batch_size=BATCH)
    history = fit(model, data, chosen, image_size=40, run_config=RunConfig(precision=precision))
    assert all(np.isfinite(row["loss"]) for row in history)
    assert {weight.dtype for weight in model.trainable_weights} == {"float32"}
    scales = isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert scales == (precision == "mixed_float16")


def test_each_stage_trains_with_its_dropout(data):
    """With next to all features dropped, the network can only guess."""
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.Input((40, 40, 3)),
            layers.GlobalAveragePooling2D(),
            layers.Rescaling(1 / 255),
            layers.Dropout(0.5, name="top_dropout"),
            layers.Dense(CLASSES, use_bias=False, activation="softmax"),
        ]
    )
    options = {"stages": 2, "image_size": 40, "recipe.dropout_rate": 0.9999, "label_smoothing": 0.0}
    chosen = recipe("v2-progressive", epochs=2, batch_size=BATCH, **options)
    first, second = fit(model, data, chosen, image_size=40)
    assert abs(first["loss"] - np.log(CLASSES)) > 0.01
    assert second["loss"] == pytest.approx(np.log(CLASSES), abs=1e-4)


def test_fine_tuning_leaves_the_frozen_layers_alone(tiny, data):
    model = network(tiny, 40)
    before = {weight.path: weight.numpy() for weight in model.weights}
    options = {"unfreeze_from": "block2", "fresh_from": "head"}
    fit(model, data, recipe("finetune", epochs=2, batch_size=BATCH, **options), image_size=40)
    changed = {
        path.split("/")[0]
        for path, value in before.items()
        if not np.array_equal(value, next(w for w in model.weights if w.path == path).numpy())
    }
    assert {"top_conv", "top_bn", "predictions", "block2a_dwconv"} <= changed
    assert not {name for name in changed if name.startswith(("stem", "block1"))}
    # Loaded batch normalization keeps its statistics, scale and offset.
    assert not {name for name in changed if name.startswith("block2") and name.endswith("bn")}


def test_epochs_are_planned_for_the_time(tiny, data, held_out, capsys, monkeypatch):
    """Measuring steps leaves no trace: a planned run is the one that was asked for by epochs."""
    monkeypatch.setattr("keras_efficientnet.training.trainer.MAX_EPOCHS", 2)

    def run(minutes=None, **overrides):
        keras.utils.set_random_seed(0)
        chosen = recipe("finetune", batch_size=BATCH, **overrides)
        options = {"image_size": 40, "held_out": held_out}
        return fit(
            network(tiny, 40), data, chosen, run_config=RunConfig(minutes=minutes), **options
        )

    assert [row["stage"] for row in run(minutes=1e-3)] == ["probe"]
    assert "No epoch fits into 0.001 minutes: the probe is kept." in capsys.readouterr().err
    planned, asked = run(minutes=1000), run(epochs=2)
    assert "2 epochs of about" in capsys.readouterr().err
    assert planned == asked


def test_class_weights_make_rare_classes_count(data):
    """With one class eight times as frequent, the loss weighs each class alike."""
    counts = {0: 32, 1: 4, 2: 4}
    order = np.concatenate([np.full(count, label) for label, count in counts.items()])
    images = np.zeros((40, 40, 40, 3), np.uint8)  # nothing to see: only the bias can learn
    skewed = dataclasses.replace(data, train=ArrayExamples(images, order))
    chosen = recipe("small", epochs=40, batch_size=40, base_learning_rate=0.1)

    def shares(**options):
        model = linear()
        fit(model, skewed, chosen, image_size=40, run_config=RunConfig(**options))
        return model.predict(images[:1], verbose=0)[0]

    assert shares()[0] > 0.6
    np.testing.assert_allclose(shares(class_weights=True), 1 / 3, atol=0.03)


def test_a_loss_that_is_no_number_ends_the_run_at_its_step(data):
    chosen = recipe("small", epochs=2, batch_size=BATCH, learning_rate=1e38)
    with pytest.raises(RunError, match=r"The loss became nan in epoch 1, at step [2-5] of the run"):
        fit(linear(), data, chosen, image_size=40)


@pytest.mark.parametrize(
    ("options", "overrides", "message"),
    [
        ({"accumulation": 3}, {}, "batch_size=8 cannot be cut into accumulation=3"),
        ({"steps_per_execution": 6}, {}, "40 training images do not fill 6 batches of 8"),
        ({}, {"batch_size": 41}, "40 training images do not fill 1 batches of 41"),
        ({"minutes": 5}, {}, "minutes=5 plans fine-tuning; recipe 'small' trains from scratch"),
    ],
)
def test_runs_that_cannot_be_are_refused(data, options, overrides, message):
    chosen = recipe("small", epochs=1, **{"batch_size": BATCH, **overrides})
    with pytest.raises(InputError, match=message):
        fit(linear(), data, chosen, image_size=40, run_config=RunConfig(**options))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"accumulation": 0}, "accumulation=0 must be at least 1"),
        ({"steps_per_execution": 0}, "steps_per_execution=0 must be at least 1"),
        ({"precision": "int8"}, "precision='int8' must be one of float32, mixed_bfloat16"),
        ({"minutes": 0}, "minutes=0 must be above 0"),
        ({"checkpoint_seconds": -1}, "checkpoint_seconds=-1 must be at least 0"),
        ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds=nan must be at least 0"),
    ],
)
def test_a_run_config_refuses_what_makes_no_sense(options, message):
    with pytest.raises(InputError, match=message):
        RunConfig(**options)


def test_callbacks_that_set_the_learning_rate_are_refused_at_once():
    for callback in (
        keras.callbacks.ReduceLROnPlateau(),
        keras.callbacks.LearningRateScheduler(lambda epoch: 0.1),
    ):
        with pytest.raises(InputError, match=f"{type(callback).__name__} cannot set the learning"):
            RunConfig(callbacks=(callback,))
