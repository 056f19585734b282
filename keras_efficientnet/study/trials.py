"""Trains the networks of a study, each with several seeds, and keeps every result in a file."""

import contextlib
import csv
import dataclasses
import gc
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import keras
import numpy as np
from filelock import FileLock, Timeout

from keras_efficientnet.data.dataset import Dataset
from keras_efficientnet.data.images import prepare
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.study.row_files import write_rows
from keras_efficientnet.study.scalable_networks import (
    ScalableNetwork,
    build,
    built_structure,
    network_cost,
)
from keras_efficientnet.training import Recipe, RunConfig, distribution, fit, plan_stages
from keras_efficientnet.training.trainer import dtype_policy

# Held-out images in memory at once.
EVALUATION_CHUNK = 1024
# Columns of a file of results, and their types.
COLUMNS = {
    "trial": str,
    "data": str,
    "train_images": int,
    "test_images": int,
    "image_size": int,
    "trainable": int,
    "multiply_adds": int,
    "epochs": int,
    "seed": int,
    "accuracy": float,
    "seconds": float,
    "settings": str,
}


@dataclass(frozen=True)
class Plan:
    """How the networks of a study are trained.

    Attributes:
        data: the training images, and the held-out images that give the accuracy.
        recipe: how each network is trained, from random weights.
        results: CSV file that keeps every result.
        seeds: number of trainings of each network; the seeds are 0, 1, 2 and so on.
        run_config: how the machine is used.

    Raises:
        InputError: if `seeds` is below 1, or the recipe fine-tunes.
    """

    data: Dataset
    recipe: Recipe
    results: Path
    seeds: int = 3
    run_config: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self):
        """Refuses what cannot be trained."""
        require(self.seeds >= 1, "seeds", self.seeds, "at least 1")
        if self.recipe.fine_tuning:
            raise InputError("A study trains from scratch; choose another recipe than finetune.")

    @property
    def classes(self) -> int:
        """Outputs of the networks."""
        return len(self.data.class_names)


@dataclass(frozen=True)
class Trial:
    """A network to train.

    Attributes:
        name: of its row in the tables.
        network: trained and evaluated at its own resolution.
        recipe: how it is trained; by the plan's recipe if None.
    """

    name: str
    network: ScalableNetwork
    recipe: Recipe | None = None


def run_trials(trials: Sequence[Trial], plan: Plan) -> list[dict[str, Any]]:
    """Trains each network once for each seed, unless the file holds its result already.

    A seed fixes initial weights, order and augmentation, so that networks can be compared
    seed by seed. The file is replaced after each training: an interrupted study continues where
    it was when it is called again. Results of other studies in the same file stay; two trials
    whose networks round to the same one share their results. A data set smaller than a batch is
    one batch.

    Returns:
        A row of the file for each trial and seed, as a map by `COLUMNS`: `accuracy` is the
        share of correct decisions on the held-out images after the last epoch, `seconds` the
        time of training, and `settings` a digest of everything that decides a result, apart
        from the seed.

    Raises:
        InputError: if the file is not one of results, another study is writing to it, or a
            network cannot be trained.
    """
    trials = [_with_recipe(trial, plan) for trial in trials]
    digests = [_settings(trial, plan) for trial in trials]
    found = []
    with _writing(plan.results):
        rows = read_results(plan.results)
        for seed in range(plan.seeds):
            for trial, digest in zip(trials, digests, strict=True):
                row = next(
                    (row for row in rows if (row["settings"], row["seed"]) == (digest, seed)), None
                )
                if row is None:
                    name = f"{len(found) + 1}/{plan.seeds * len(trials)}: {trial.name}, seed {seed}"
                    print(name, file=sys.stderr)
                    row = {**train_once(trial, plan, seed), "settings": digest}
                    rows.append(row)
                    write_rows(plan.results, rows)
                    print(f"{name}: {100 * row['accuracy']:.1f} %", file=sys.stderr)
                found.append({**row, "trial": trial.name})
    return found


def _with_recipe(trial: Trial, plan: Plan) -> Trial:
    recipe = trial.recipe or plan.recipe
    # A set smaller than a batch would give no step at all.
    batch_size = min(recipe.batch_size, len(plan.data.train))
    return dataclasses.replace(trial, recipe=dataclasses.replace(recipe, batch_size=batch_size))


def summarize_trial(rows: Sequence[dict[str, Any]], trial: str) -> dict[str, Any]:
    """Summarizes the results of one trial over its seeds.

    Args:
        rows: from `run_trials`.
        trial: its name.

    Returns:
        `accuracies`, by seed; `accuracy`, their mean; `spread`, their sample standard deviation
        (over n - 1), None for a single seed; `seconds`, the mean.
    """
    rows = sorted((row for row in rows if row["trial"] == trial), key=lambda row: row["seed"])
    accuracies = [row["accuracy"] for row in rows]
    return {
        "accuracies": accuracies,
        "accuracy": statistics.mean(accuracies),
        "spread": statistics.stdev(accuracies) if len(accuracies) > 1 else None,
        "seconds": statistics.mean(row["seconds"] for row in rows),
    }


def accuracy_difference(first: dict[str, Any], second: dict[str, Any]) -> dict[str, Any]:
    """Compares two trials seed by seed.

    Args:
        first: from `summarize_trial`.
        second: likewise, with as many seeds.

    Returns:
        `differences`, the first's accuracy minus the second's for each seed; `mean`; and
        `standard_error` of the mean, None for a single seed.
    """
    pairs = zip(first["accuracies"], second["accuracies"], strict=True)
    values = [a - b for a, b in pairs]
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else None
    return {"differences": values, "mean": statistics.mean(values), "standard_error": error}


def subset(data: Dataset, train_images: int | None, test_images: int | None) -> Dataset:
    """Returns a data set of some of the images: of every class the first, and equally many.

    Args:
        data: the whole data set.
        train_images: number of training images, rounded down to a multiple of the classes;
            None for all.
        test_images: likewise of held-out images.

    Raises:
        InputError: if a number is below that of the classes, or the images are a stream that
            has no index.
    """
    return dataclasses.replace(
        data,
        train=_some(data, data.train, train_images),
        test=_some(data, data.test, test_images),
    )


def _some(data: Dataset, examples: Any, count: int | None) -> Any:
    if count is None or count >= len(examples):
        return examples
    classes = len(data.class_names)
    if count < classes:
        raise InputError(f"{count} images are too few for {classes} classes.")
    if not hasattr(examples, "subset"):
        raise InputError(
            f"{data.source} cannot be cut by a number of images; name a part of a split, such as "
            "--train-split 'train[:10%]'."
        )
    labels = np.asarray(examples.labels)
    chosen = [np.flatnonzero(labels == label)[: count // classes] for label in range(classes)]
    return examples.subset(np.sort(np.concatenate(chosen)))


def train_once(trial: Trial, plan: Plan, seed: int) -> dict[str, Any]:
    """Trains one network with one seed, and returns its row without `settings`.

    Args:
        trial: with a recipe.
        plan: whose data and machine settings are used.
        seed: of weights, order and augmentation.
    """
    recipe, data, size = trial.recipe, plan.data, trial.network.resolution
    assert recipe
    one_size = {stage.image_size for stage in plan_stages(recipe, size)} == {size}
    keras.utils.set_random_seed(seed)
    with (
        distribution.over_devices(plan.run_config.devices),
        dtype_policy(plan.run_config.precision),
    ):
        model = build(
            trial.network,
            plan.classes,
            size if one_size else None,
            dropout_rate=recipe.dropout_rate,
            drop_connect_rate=recipe.drop_connect_rate,
        )
        started = time.perf_counter()
        fit(model, data, recipe, image_size=size, seed=seed, run_config=plan.run_config)
        seconds = time.perf_counter() - started
        accuracy = _accuracy(model, data, size)
    cost = network_cost(trial.network, plan.classes)
    row = {
        "trial": trial.name,
        "data": data.source,
        "train_images": len(data.train),
        "test_images": len(data.test),
        "image_size": size,
        "trainable": cost.trainable,
        "multiply_adds": cost.multiply_adds,
        "epochs": recipe.epochs,
        "seed": seed,
        "accuracy": accuracy,
        "seconds": round(seconds, 2),
    }
    del model
    gc.collect()  # a study builds many networks, and Keras' graphs are cycles
    return row


def _accuracy(model: keras.Model, data: Dataset, size: int) -> float:
    """Returns the share of correct decisions on all held-out images."""
    correct, remaining = 0, iter(data.test)
    while chunk := list(islice(remaining, EVALUATION_CHUNK)):
        pixels = np.stack([prepare(image, size, data.crop_fraction) for image, _ in chunk])
        scores = model.predict(pixels, batch_size=64, verbose=0)
        correct += int(data.task.correct(scores, np.array([label for _, label in chunk])).sum())
    return correct / len(data.test)


def _settings(trial: Trial, plan: Plan) -> str:
    """Returns a digest of everything that decides a result, apart from the seed."""
    assert trial.recipe
    data, run_config = plan.data, plan.run_config
    settings = {
        "network": built_structure(trial.network),
        "recipe": dataclasses.asdict(trial.recipe),
        "data": [data.source, len(data.train), len(data.test), data.class_names],
        "precision": run_config.precision,
        "accumulation": run_config.accumulation,
        "class_weights": run_config.class_weights,
    }
    text = json.dumps(settings, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_results(path: Path) -> list[dict[str, Any]]:
    """Reads a file of results.

    Returns:
        A map by `COLUMNS` for each; none where there is no file.

    Raises:
        InputError: if it is another kind of file.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            if reader.fieldnames == list(COLUMNS):
                return [{name: kind(row[name]) for name, kind in COLUMNS.items()} for row in reader]
    except (OSError, ValueError, TypeError):
        pass
    raise InputError(f"{str(path)!r} is not a file of study results; pass another --output.")


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Locks a file of results, so that one study at a time writes to it."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"Another study is writing to {str(path)!r}; wait for it.") from None
    except OSError as error:
        raise InputError(f"Cannot write to {str(path)!r}: {error.strerror}.") from error
    try:
        yield
    finally:
        Path(lock.lock_file).unlink(missing_ok=True)
        lock.release()
