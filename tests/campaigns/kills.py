"""Kills work at random moments, then finishes it: no file may be torn, no result different.

    python tests/campaigns/kills.py --rounds 20 --json kills.jsonl
    python tests/campaigns/kills.py --job train --seconds 280 --seed 1 --json kills.jsonl
    python tests/campaigns/kills.py --summary kills.jsonl

Each round gives a job a fresh folder with an earlier result in it, kills it and its children with
SIGKILL at a random moment of its duration, once or twice; checks every file that has its final
name; runs the job to its end; and compares the result with that of an undisturbed job. The jobs
are real work of this package on its smallest networks.

Every job runs in a child that is forked from a process which has imported everything and run
nothing, so that a round takes seconds. Linux only.
"""

import argparse
import contextlib
import ctypes
import dataclasses
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras
import numpy as np
import tensorflow as tf
from PIL import Image
from records import record

import keras_efficientnet as ke
from keras_efficientnet import cli, deploy, study, training
from keras_efficientnet.data import image_files  # noqa: F401  imported before the fork
from keras_efficientnet.deploy import runtime
from keras_efficientnet.description import ModelDescription, read_description
from keras_efficientnet.study import trials
from keras_efficientnet.training import run_checkpoints

LIMIT_SECONDS = 240  # nothing here takes so long
PR_SET_PDEATHSIG = 1  # a child ends with the campaign
B0 = ke.spec.VARIANTS["B0"]
TINY = dataclasses.replace(
    B0, name="tiny", width=0.25, depth=0.3, stages=B0.stages[:2], batch_norm_momentum=0.7
)
SIZE = 32
CLASSES = ("chat", "犬", "лиса")


@dataclasses.dataclass(frozen=True)
class Job:
    """Work that can be killed.

    Attributes:
        run: does the work in a folder, and resumes what it finds there.
        prepare: puts the input and an earlier result into the folder.
        whole: raises unless every file with a final name is complete, the earlier result or the
            new one.
        same: raises unless the second folder has the same result as the first.
        moment: condition to wait for before the kill, after a random time.
    """

    run: Callable[[Path], None]
    prepare: Callable[[Path], None]
    whole: Callable[[Path], None]
    same: Callable[[Path, Path], None]
    moment: Callable[[Path], bool] | None = None


def in_child(action: Callable[[], None], log: Path) -> int:
    """Forks a child that leads a process group of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            try:
                action()
                status = 0
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
    finally:
        os._exit(status)


def finish(action: Callable[[], None], log: Path) -> float:
    """Runs an action in a child to its end, and returns the seconds that it took."""
    started = time.monotonic()
    child = in_child(action, log)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if time.monotonic() - started > LIMIT_SECONDS:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"it hangs: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.01)
    text = log.read_text(errors="replace")
    assert ended[1] == 0, text[-3000:]
    assert "Traceback" not in text, text[-3000:]
    return time.monotonic() - started


def kill(job: Job, folder: Path, log: Path, delay: float) -> bool:
    """Starts a job and kills it; returns whether it was still running."""
    child = in_child(lambda: job.run(folder), log)
    end = time.monotonic() + delay
    while time.monotonic() < end:
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.001)
    while job.moment and not job.moment(folder):
        if os.waitpid(child, os.WNOHANG) != (0, 0):
            return False
        time.sleep(0.0002)
    with contextlib.suppress(ProcessLookupError):  # it has not got its group yet
        os.killpg(child, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    text = log.read_text(errors="replace") if log.exists() else ""
    assert "Traceback" not in text, text[-3000:]
    return os.WIFSIGNALED(status)


def campaign(
    name: str, rounds: int, seconds: float, seed: int, folder: Path, figures: Path | None
) -> int:
    """Kills one job repeatedly, and returns how often."""
    job, rng, started = JOBS[name], random.Random(f"{name} {seed}"), time.monotonic()
    log = folder / "log"
    expected = folder / "expected"
    expected.mkdir()
    job.prepare(expected)
    took = finish(lambda: job.run(expected), log)
    finish(lambda: job.whole(expected), log)
    kills = 0
    for number in range(rounds):
        if time.monotonic() - started > seconds:
            break
        broken = folder / f"round-{number}"
        broken.mkdir()
        job.prepare(broken)
        killed = 0
        for _ in range(rng.choice((1, 1, 2))):
            delay = rng.uniform(0, took * (0.7 if job.moment else 1))
            killed += kill(job, broken, log, delay)
            finish(lambda at=broken: job.whole(at), log)
        finish(lambda at=broken: job.run(at), log)
        finish(lambda at=broken: job.same(expected, at), log)
        shutil.rmtree(broken)
        kills += killed
        record({"job": name, "seed": seed, "round": number, "kills": killed}, figures)
    return kills


# Training, and the writing of its checkpoints.


def _fit(folder: Path) -> None:
    tf.config.experimental.enable_op_determinism()
    data = trials.subset(ke.data.load("digits"), 320, 40)
    keras.utils.set_random_seed(1)
    model = ke.EfficientNet(TINY, input_shape=(SIZE, SIZE, 3), classes=10)
    recipe = training.recipe("small", epochs=2, batch_size=32, ema_decay=0.99)
    history = training.fit(
        model,
        data,
        recipe,
        image_size=SIZE,
        seed=1,
        run_config=training.RunConfig(checkpoint_seconds=0, deterministic=True),
        folder=folder,
    )
    assert len(history) == 2
    model.save_weights(folder / "final.weights.h5")


def _checkpoints_whole(folder: Path) -> None:
    newest = run_checkpoints.newest_step(folder)
    if newest >= 0:
        found = run_checkpoints.load_newest(folder)
        assert found, "no checkpoint can be read"
        assert found[1]["step"] == newest, "the newest checkpoint is torn"


def _same_checkpoint(expected: Path, found: Path) -> None:
    one, other = run_checkpoints.load_newest(expected), run_checkpoints.load_newest(found)
    assert one
    assert other
    assert one[1] == other[1], "the history differs"
    for name, value in one[0].items():
        np.testing.assert_array_equal(other[0][name], value, err_msg=name)


def _is_writing(folder: Path) -> bool:
    return any(folder.glob("*.writing"))


# Exports. The earlier result is of another network, so that old and new can be told apart.


def _prepare_export(folder: Path) -> None:
    """Copies what one child has made: this process must not run TensorFlow."""
    template = _template()
    shutil.copytree(template, folder, dirs_exist_ok=True)


def _template() -> Path:
    """Models and their scores, made once: `new.keras`, and in `out` the files of an old one."""
    folder = Path(tempfile.gettempdir(), "keras-efficientnet-kills")
    if not folder.exists():
        aside = Path(tempfile.mkdtemp(prefix=f"{folder.name}-"))
        finish(lambda: _make_template(aside), aside.with_suffix(".log"))
        aside.rename(folder)
    return folder


def _make_template(folder: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (12, SIZE, SIZE, 3), np.uint8)
    np.save(folder / "pixels.npy", pixels)
    for name, seed in (("old", 1), ("new", 2)):
        keras.utils.set_random_seed(seed)
        model = ke.EfficientNet(TINY, input_shape=(SIZE, SIZE, 3), classes=len(CLASSES))
        for weight in model.trainable_variables:
            weight.assign(weight + 0.05 * np.random.default_rng(seed).normal(size=weight.shape))
        description = ModelDescription("tiny", CLASSES, SIZE, 1.0, summary=name)
        deploy.save_keras(model, folder / f"{name}.keras", description)
        np.save(folder / f"{name}.npy", model.predict(pixels, verbose=0))
    (folder / "out").mkdir()
    _export(folder, folder / "old.keras")
    _quantize(folder, folder / "old.keras")


def _export(folder: Path, model: Path | None = None) -> None:
    formats = ("keras", "saved_model", "tflite")
    deploy.export(model or folder / "new.keras", folder / "out", formats, overwrite=True)


def _quantize(folder: Path, model: Path | None = None) -> None:
    pixels = np.load(folder / "pixels.npy")
    model = model or folder / "new.keras"
    deploy.export(
        *(model, folder / "out", "tflite", "int8", pixels),
        options=deploy.ExportOptions(min_agreement=0),
        overwrite=True,
    )


def _exports_whole(folder: Path) -> None:
    """Every file runs and gives the scores of the one network or of the other."""
    pixels = np.load(folder / "pixels.npy")
    for file in sorted(path for path in (folder / "out").iterdir() if path.name[0] != "."):
        if file.suffix == ".md":
            assert file.read_text(encoding="utf-8").rstrip().endswith(("|", "."))
            continue
        description = read_description(file)
        assert description
        expected = np.load(folder / f"{description.summary}.npy")
        scores = runtime.open_model(file).run(pixels)
        tolerance = 0.2 if "int8" in file.name else 1e-3
        np.testing.assert_allclose(scores, expected, atol=tolerance, err_msg=file.name)
        if file.suffix == ".keras":
            with zipfile.ZipFile(file) as archive:
                assert archive.testzip() is None


def _same_exports(expected: Path, found: Path) -> None:
    _exports_whole(found)
    for name in (path.name for path in (expected / "out").iterdir() if path.name[0] != "."):
        if not name.endswith(".md"):
            one, other = (read_description(root / "out" / name) for root in (expected, found))
            assert one == other, name


# A search for coefficients.


def _search(folder: Path) -> None:
    tf.config.experimental.enable_op_determinism()
    plan = trials.Plan(
        trials.subset(ke.data.load("digits"), 128, 40),
        training.recipe("small", epochs=1, batch_size=32),
        folder / "results.csv",
        seeds=1,
    )
    candidates = study.search_candidates(
        TINY, study.Constraint(step=0.25, tolerance=0.3), plan.classes
    )[:3]
    assert len(candidates) == 3
    ranked = study.search_coefficients(TINY, candidates, plan)
    (folder / "ranking.json").write_text(json.dumps([_without_seconds(row) for row in ranked]))


def _without_seconds(row: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in row.items() if name != "seconds"}


def _results_whole(folder: Path) -> None:
    rows = trials.read_results(folder / "results.csv")
    assert len({(row["settings"], row["seed"]) for row in rows}) == len(rows)


def _same_results(expected: Path, found: Path) -> None:
    one, other = (
        [_without_seconds(row) for row in trials.read_results(folder / "results.csv")]
        for folder in (expected, found)
    )
    assert one == other
    assert (expected / "ranking.json").read_text() == (found / "ranking.json").read_text()


# Predictions that are written while images are read.


def _prepare_predictions(folder: Path) -> None:
    shutil.copy(Path(__file__).parents[1] / "golden" / "model.tflite", folder)
    (folder / "photos").mkdir()
    rng = np.random.default_rng(0)
    for index in range(300):
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Image.fromarray(pixels).resize((160, 120)).save(folder / "photos" / f"{index:03}.png")
    (folder / "out.csv").write_text("the earlier result\n")


def _predict(folder: Path) -> None:
    os.chdir(folder)
    arguments = ["predict", "model.tflite", "photos", "--output", "out.csv", "--overwrite"]
    sys.argv = ["keras-efficientnet", *arguments]
    cli.main()


def _predictions_whole(folder: Path) -> None:
    text = (folder / "out.csv").read_text(encoding="utf-8")
    assert text == "the earlier result\n" or len(text.splitlines()) == 301


def _same_predictions(expected: Path, found: Path) -> None:
    one, other = ((folder / "out.csv").read_text() for folder in (expected, found))
    assert one == other


def _nothing(folder: Path) -> None:
    """There is no earlier result where a job goes on with what it finds."""


JOBS = {
    "train": Job(_fit, _nothing, _checkpoints_whole, _same_checkpoint),
    "checkpoint": Job(_fit, _nothing, _checkpoints_whole, _same_checkpoint, _is_writing),
    "export": Job(_export, _prepare_export, _exports_whole, _same_exports),
    "quantize": Job(_quantize, _prepare_export, _exports_whole, _same_exports),
    "search": Job(_search, _nothing, _results_whole, _same_results),
    "predict": Job(_predict, _prepare_predictions, _predictions_whole, _same_predictions),
}


def main() -> None:
    """Runs the jobs in turn, or sums up what earlier runs have recorded."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--job", choices=JOBS, action="append", help="repeatable; default: all")
    parser.add_argument("--rounds", type=int, default=1000, help="of each job; default: many")
    parser.add_argument("--seconds", type=float, default=280, help="in all; default: %(default)s")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="file to add a line to for each round")
    parser.add_argument("--summary", type=Path, help="print the sums of such a file, and end")
    options = parser.parse_args()
    if options.summary:
        lines = [json.loads(line) for line in options.summary.read_text().splitlines()]
        kills = Counter()
        for line in lines:
            kills[line["job"]] += line["kills"]
        print(json.dumps({"rounds": len(lines), "kills": kills.total(), **kills}, indent=1))
        return

    names = options.job or list(JOBS)
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            where = Path(folder, name)
            where.mkdir()
            share = options.seconds / len(names)
            print(name, campaign(name, options.rounds, share, options.seed, where, options.json))


if __name__ == "__main__":
    main()
