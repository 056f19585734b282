"""Time to start: the import, a command, building a network, exporting a LiteRT file.

    pip install -e ".[bench]"
    python benchmarks/startup.py --json figures.json

Imports and commands run in fresh processes, compared with one that imports Keras. Networks are
built and exported in one process, after one of each that does not count. TensorFlow's caches are
cleared before each build, so that each is as slow as the first in a process. All take turns, and
ratios are taken within a turn. `export` checks its file in a fresh process before it puts it in
place, which Keras' exporter does not do; `export_tflite` is the conversion alone.
"""

import argparse
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from peers import keras_applications_network, parse, report, row
from tqdm import tqdm

PACKAGES = ("keras", "tensorflow")
COMMANDS = {
    "import keras": ["-c", "import keras"],
    "import keras_efficientnet": ["-c", "import keras_efficientnet"],
    "info B7": ["-m", "keras_efficientnet.cli", "info", "B7"],
    "--help": ["-m", "keras_efficientnet.cli", "--help"],
}
# Targets: our time as a multiple of the peer's.
STARTING = {"import keras_efficientnet": 0.05, "info B7": 0.15, "--help": 0.15}
BUILDING = 0.8
EXPORTING = {"export_tflite": 0.5, "export": 0.5}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--build", default="B7", help="network to build; default: %(default)s")
    parser.add_argument("--export", default="B0", help="and to export; default: %(default)s")
    parser.add_argument("--turns", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--measure", nargs="+", choices=MEASURES, default=list(MEASURES))
    options = parse(parser)
    rows: list[dict] = []
    seconds: dict[str, list[float]] = {}
    for name in options.measure:
        found, lines = MEASURES[name](options)
        seconds |= found
        rows += lines
    report(options, PACKAGES, rows, seconds=seconds)


def starting(options: argparse.Namespace):
    found = measure({name: partial(start, name) for name in COMMANDS}, options.turns)
    return found, [
        row(name, "import keras", found[name], found["import keras"], at_most=aim)
        for name, aim in STARTING.items()
    ]


def building(options: argparse.Namespace):
    found = measure(builders(options.build), options.turns, forget)
    figure = f"build {options.build}"
    return found, [row(figure, "keras.applications", *found.values(), at_most=BUILDING)]


def exporting(options: argparse.Namespace):
    with tempfile.TemporaryDirectory() as folder:
        found = measure(exporters(options.export, Path(folder)), options.turns)
    return found, [
        row(f"{name} {options.export}", "Keras' export", found[name], found["keras"], at_most=aim)
        for name, aim in EXPORTING.items()
    ]


MEASURES = {"starting": starting, "building": building, "exporting": exporting}


def measure(
    actions: Mapping[str, Callable[[], object]],
    turns: int,
    prepare: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Returns the seconds that each action takes in each turn, after one that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for turn in tqdm(range(turns + 1), "Measuring", unit="turn", leave=False, disable=None):
        for name, action in actions.items():
            prepare()
            begin = time.perf_counter()
            action()
            if turn:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


def start(name: str) -> None:
    subprocess.run([sys.executable, *COMMANDS[name]], capture_output=True, check=True)


def forget() -> None:
    """Clears TensorFlow's caches, so that the next build is as slow as the first in a process."""
    import keras

    keras.backend.clear_session()
    gc.collect()


def builders(variant: str) -> dict[str, Callable[[], object]]:
    import keras_efficientnet as ke

    return {
        "build, ours": lambda: ke.EfficientNet(variant),
        "build, keras.applications": lambda: keras_applications_network(variant),
    }


def exporters(variant: str, folder: Path) -> dict[str, Callable[[], object]]:
    import keras_efficientnet as ke

    ours, theirs = ke.EfficientNet(variant), keras_applications_network(variant)
    return {
        "export_tflite": lambda: ke.deploy.export_tflite(ours, folder / "ours.tflite"),
        "export": lambda: ke.export(ours, folder, overwrite=True),
        "keras": lambda: theirs.export(folder / "keras.tflite", format="litert", verbose=False),
    }


if __name__ == "__main__":
    main()
