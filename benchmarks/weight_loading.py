"""Time and memory to load weights, beside Keras' own loader on the same file.

    python benchmarks/weight_loading.py --variant B7 --json figures.json

Keras loads a `.weights.h5` of keras.applications into that network; this package loads the
same file into its own. Every repetition measures each once, in turns, and ratios are taken
within a repetition, so that what else runs on the machine weighs on both alike. Memory is
the highest resident size above what was there before, in copies of the weights, sampled
in a fresh process for each loader: one that has loaded before keeps what it freed. Linux
only.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable

import keras

import keras_efficientnet as ke

LOADERS = ("keras", "keras_efficientnet")
_SAMPLE_SECONDS = 0.001
_WARM_UP = 1


def main() -> None:
    """Measures, prints and optionally writes the figures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="B7", help="B0-B7; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--json", help="file to write the figures to")
    parser.add_argument("--memory-of", nargs=2, metavar=("LOADER", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, path = options.memory_of
        print(peak_extra_bytes(loader(name, options.variant, path)))
        return
    figures = measure(options.variant, options.repeats)
    print(json.dumps(figures, indent=2))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(figures, file, indent=2)


def loader(name: str, variant: str, path: str) -> Callable[[], object]:
    """Builds the network that a loader fills, and returns what fills it."""
    if name == "keras":
        peer = getattr(keras.applications, f"EfficientNet{variant}")(weights=None)
        return lambda: peer.load_weights(path)
    # keras.applications' fresh network divides by 255; this one leaves pixels to the caller.
    network = ke.EfficientNet(variant, include_preprocessing=False)
    return lambda: ke.load_weights(network, path)


def measure(variant: str, repeats: int) -> dict:
    """Loads one file by both ways, `repeats` times each, and once more for memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.weights.h5")
        source = getattr(keras.applications, f"EfficientNet{variant}")(weights=None)
        source.save_weights(path)
        size = sum(weight.nbytes for weight in source.get_weights())
        loaders = {name: loader(name, variant, path) for name in LOADERS}
        seconds: dict[str, list[float]] = {name: [] for name in LOADERS}
        for repeat in range(repeats + _WARM_UP):
            for name, load in loaders.items():
                start = time.perf_counter()
                load()
                if repeat >= _WARM_UP:
                    seconds[name].append(time.perf_counter() - start)
        command = [sys.executable, __file__, "--variant", variant, "--memory-of"]
        extra = {
            name: int(subprocess.check_output([*command, name, path], text=True))
            for name in LOADERS
        }
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    return {
        "variant": variant,
        "megabytes": round(size / 1e6, 1),
        "seconds": {name: round(statistics.median(times), 3) for name, times in seconds.items()},
        "ratio": {
            "median": round(statistics.median(ratios), 2),
            "lowest": round(min(ratios), 2),
            "highest": round(max(ratios), 2),
        },
        "extra_copies": {name: round(peak / size, 2) for name, peak in extra.items()},
        "repeats": repeats,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "keras": keras.__version__,
    }


def peak_extra_bytes(action: Callable[[], object]) -> int:
    """Highest resident size while an action runs, above the size before it."""
    gc.collect()
    before = _resident_bytes()
    peak = before
    finished = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not finished.wait(_SAMPLE_SECONDS):
            peak = max(peak, _resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        action()
    finally:
        finished.set()
        sampler.join()
    return peak - before


def _resident_bytes() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
