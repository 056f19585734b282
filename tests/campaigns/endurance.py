"""Endurance: many predictions, many training steps, many files.

    python tests/campaigns/endurance.py --json endurance.jsonl
    python tests/campaigns/endurance.py --task predict

- predict: 100,000 predictions through one `Predictor` from 8 threads equal those of one thread,
  and memory does not grow.
- train: 20,000 steps of the smallest network; memory does not grow and speed does not fall.
- folder: opening a folder of 100,000 tiny images, beside one of a tenth as many.

Each task runs in a process of its own and prints its figures; it fails if one is out of bounds.
Memory is the resident size.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
from PIL import Image
from records import record

import keras_efficientnet as ke

GOLDEN = Path(__file__).parents[1] / "golden"
THREADS = 8
PARTS = 10


def resident_mb() -> float:
    """Returns the resident size of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def predict(count: int = 100_000) -> dict:
    """Classifies from 8 threads at once."""
    predictor = ke.Predictor(GOLDEN / "model.tflite")
    photos = np.random.default_rng(0).integers(0, 256, (100, 40, 48, 3), np.uint8)
    expected = [predictor.classify(photo) for photo in photos]
    wrong = 0
    memory = []
    lock = threading.Lock()

    def work(seed: int, number: int) -> None:
        nonlocal wrong
        rng = np.random.default_rng(seed)
        for index in rng.integers(0, len(photos), number):
            answer = predictor.classify(photos[index])
            same = answer.labels == expected[index].labels and np.allclose(
                answer.scores, expected[index].scores, atol=1e-5
            )
            if not same:
                with lock:
                    wrong += 1

    started = time.monotonic()
    for part in range(PARTS):
        number = count // PARTS // THREADS
        threads = [
            threading.Thread(target=work, args=(part * THREADS + i, number)) for i in range(THREADS)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        memory.append(resident_mb())
    # The first part fills the pools.
    growth = memory[-1] - memory[0]
    assert wrong == 0
    assert growth < 10, memory
    return {
        "predictions": count,
        "threads": THREADS,
        "other_answers": wrong,
        "memory_mb": [round(value) for value in memory],
        "growth_mb": round(growth, 1),
        "seconds": round(time.monotonic() - started),
    }


def train(steps: int = 20_000) -> dict:
    """Trains the smallest network, and records time and memory after every epoch."""
    import keras

    from keras_efficientnet import training
    from keras_efficientnet.study import trials

    b0 = ke.spec.VARIANTS["B0"]
    tiny = dataclasses.replace(b0, name="tiny", width=0.1, depth=0.3, stages=b0.stages[:1])
    data = trials.subset(ke.data.load("digits"), 400, 40)
    model = ke.EfficientNet(tiny, input_shape=(32, 32, 3), classes=10)
    batch, epochs = 4, PARTS * 10
    repeat = steps // epochs // (len(data.train) // batch)
    labels = np.tile(data.train.labels, repeat)
    examples = type(data.train)(np.tile(data.train.pixels, (repeat, 1, 1, 1)), labels)
    memory, seconds = [], []

    class Record(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            memory.append(resident_mb())
            seconds.append(time.process_time())

    fit = model.fit

    def recorded(*arguments, callbacks, **options):
        return fit(*arguments, callbacks=[*callbacks, Record()], **options)

    model.fit = recorded
    with tempfile.TemporaryDirectory() as folder:
        history = training.fit(
            model,
            dataclasses.replace(data, train=examples),
            training.recipe("small", batch_size=batch, epochs=epochs),
            image_size=32,
            run_config=training.RunConfig(checkpoint_seconds=5, steps_per_execution=20),
            folder=Path(folder),
        )
    assert len(history) == epochs
    done = epochs * (len(labels) // batch)
    tenth = epochs // 10
    growth = memory[-1] - memory[tenth]
    times = np.diff(seconds)
    slowing = float(np.median(times[-2 * tenth :]) / np.median(times[tenth : 3 * tenth]))
    assert done >= steps, done
    assert growth < 50, memory
    assert slowing < 1.25, times
    return {
        "steps": done,
        "memory_mb": [round(memory[i]) for i in range(tenth, epochs, tenth)],
        "growth_mb": round(growth, 1),
        "last_fifth_over_first_cpu_time": round(slowing, 2),
        "cpu_seconds": round(seconds[-1]),
    }


def folder(count: int = 100_000) -> dict:
    """Opens a folder of tiny images, and one of a tenth as many."""
    figures = {}
    with tempfile.TemporaryDirectory() as where:
        root = Path(where)
        source = root / "one.png"
        Image.new("RGB", (4, 4)).save(source)
        for name, number in (("tenth", count // 10), ("all", count)):
            for index in range(number):
                target = root / name / f"class-{index % 100:02}"
                if index < 100:
                    target.mkdir(parents=True)
                # As many names of one file as it may have, then of another copy.
                if index % 50_000 == 0:
                    source = root / f"{name}-{index}.png"
                    source.write_bytes((root / "one.png").read_bytes())
                os.link(source, target / f"{index}.png")
            started = time.monotonic()
            data = ke.data.load(f"folder:{root / name}")
            opened = time.monotonic()
            assert len(data.train) + len(data.test) == number
            figures[name] = {"images": number, "opening_seconds": round(opened - started, 2)}
    ratio = figures["all"]["opening_seconds"] / figures["tenth"]["opening_seconds"]
    figures["opening_all_over_tenth"] = round(ratio, 1)
    assert ratio < 20, figures
    return figures


TASKS = {"predict": predict, "train": train, "folder": folder}


def main() -> None:
    """Runs each task in a fresh process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--task", choices=TASKS, action="append", help="repeatable; default: all")
    parser.add_argument("--json", type=Path, help="file to add a line to for each task")
    parser.add_argument("--inside", choices=TASKS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(TASKS[options.inside]()))
        return
    for task in options.task or TASKS:
        command = [sys.executable, __file__, "--inside", task]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        figures = {"task": task, **json.loads(output.splitlines()[-1])}
        record(figures, options.json)


if __name__ == "__main__":
    main()
