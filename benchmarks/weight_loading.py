"""Time and memory to load weights, beside Keras' own loader on the same file.

    python benchmarks/weight_loading.py --variant B7 --json figures.json

Keras loads a `.weights.h5` of keras.applications into that network; this package loads the
same file into its own. Both take turns, and ratios are taken within a turn, so that what else
runs on the machine weighs on both alike. Memory is the highest resident size above what was
there before, in copies of the weights, sampled in a fresh process for each loader: one that
has loaded before keeps what it freed. Linux only.
"""

import argparse
import gc
import os
import subprocess
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from peers import keras_applications_network, parse, report, row, serving
from startup import measure

import keras_efficientnet as ke

PACKAGES = ("keras", "tensorflow")
OURS, PEER = "keras_efficientnet", "keras.applications"
SAMPLE_SECONDS = 0.001


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="B7", help="B0-B7; default: %(default)s")
    parser.add_argument("--repeats", type=int, default=7, help="default: %(default)s")
    options = parse(parser, print_peak_memory)
    variant = options.variant
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder, "model.weights.h5"))
        source = keras_applications_network(variant)
        source.save_weights(file)
        loaders = {name: loader(name, variant, file) for name in (OURS, PEER)}
        seconds = measure(loaders, options.repeats)
        given = argparse.Namespace(variant=variant, file=file)
        peaks = {
            name: int(subprocess.check_output(serving(__file__, name, given))) for name in loaders
        }
    size = sum(weight.nbytes for weight in source.get_weights())
    copies = {name: round(peak / size, 2) for name, peak in peaks.items()}
    lines = [row(f"load {variant}", PEER, seconds[OURS], seconds[PEER], at_most=1)]
    report(options, PACKAGES, lines, seconds=seconds, bytes=size, copies_in_memory=copies)
    print("Copies of the weights in memory:", ", ".join(f"{n} {copies[n]:.2f}" for n in copies))


def loader(name: str, variant: str, file: str) -> Callable[[], object]:
    """Builds the network of a loader, and returns what loads the file into it."""
    if name == PEER:
        peer = keras_applications_network(variant)
        return lambda: peer.load_weights(file)
    # keras.applications' fresh network divides by 255; this one leaves pixels to the caller.
    network = ke.EfficientNet(variant, include_preprocessing=False)
    return lambda: ke.load_weights(network, file)


def print_peak_memory(name: str, options: argparse.Namespace) -> None:
    """Prints the most bytes in memory while a loader runs, above those before it."""
    load = loader(name, options.variant, options.file)
    gc.collect()
    sizes = [resident_bytes()]
    finished = threading.Event()

    def sample() -> None:
        while not finished.wait(SAMPLE_SECONDS):
            sizes.append(resident_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        load()
    finally:
        finished.set()
        sampler.join()
    print(max(sizes) - sizes[0])


def resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
