"""How much faster two processes train than one, on the same total work.

    pip install -e ".[distributed]"
    python benchmarks/processes.py --json figures.json

One process on one core trains on whole batches; two processes on a core each share the same
batches, as two hosts do (`--hosts` of the command line, on JAX). Each round runs both, one
after the other, and takes the median of their epochs but for the first, which compiles.
The ideal is twice the speed. Linux only.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time

import numpy as np
from peers import parse, report, row
from tqdm import tqdm

PACKAGES = ("jax", "keras")
CLASSES = 10
TO_REACH = 1.6


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="B0", help="or tiny; default: %(default)s")
    parser.add_argument("--image-size", type=int, default=96, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=32, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=2, help="per epoch; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=7, help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    options = parse(parser, work)
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("Two processes need two cores.")
    seconds: dict[str, list[float]] = {"one process": [], "two processes": []}
    for _ in tqdm(range(options.rounds), "Measuring", unit="round", leave=False, disable=None):
        for name, pinned in (("one process", cores[:1]), ("two processes", cores)):
            seconds[name].append(float(np.median(train(pinned, options))))
    rows = [row("speed of two processes", "one", *seconds.values(), at_least=TO_REACH)]
    report(options, PACKAGES, rows, seconds_an_epoch=seconds)


def train(cores: list[int], options: argparse.Namespace) -> list[float]:
    """Runs a process on each core, and returns the first one's seconds for each epoch."""
    hosts = addresses(len(cores)) if len(cores) > 1 else ""
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "--serve", f"{index} {core} {hosts}", "--options", given],
            env={**os.environ, "KERAS_BACKEND": "jax"},
            stdout=subprocess.PIPE,
        )
        for given in [json.dumps(vars(options))]
        for index, core in enumerate(cores)
    ]
    outputs = [process.communicate()[0] for process in processes]
    if any(process.returncode for process in processes):
        raise SystemExit("A process failed; its output is above.")
    return json.loads(outputs[0])


def addresses(count: int) -> str:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    return found


def work(place: str, options: argparse.Namespace) -> None:
    """One of the processes."""
    index, core, hosts = place.split(" ")
    os.sched_setaffinity(0, {int(core)})
    from keras_efficientnet.training import on_hosts

    def epochs():
        return seconds_of_epochs(options)

    print(json.dumps(on_hosts(epochs, hosts, int(index)) if hosts else epochs()))


def seconds_of_epochs(options: argparse.Namespace) -> list[float]:
    """Trains on one random batch, of which this process has its share."""
    import keras
    import tensorflow as tf

    import keras_efficientnet as ke
    from keras_efficientnet.training import distribution

    class Clock(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.seconds = []

        def on_epoch_begin(self, epoch, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            self.seconds.append(time.perf_counter() - self.start)

    share = options.batch_size // distribution.shard()[1]
    shape = (options.image_size, options.image_size, 3)
    rng = np.random.default_rng(distribution.shard()[0])
    batch = rng.integers(0, 256, (share, *shape), np.uint8), rng.integers(0, CLASSES, share)
    keras.utils.set_random_seed(1)
    with distribution.over_devices():
        network = ke.study.get_network(options.variant)
        model = ke.EfficientNet(network, input_shape=shape, classes=CLASSES)
        recipe = ke.training.recipe("small", batch_size=options.batch_size, epochs=options.epochs)
        ke.training.compile_model(model, recipe, options.steps)
        clock = Clock()
        batches = tf.data.Dataset.from_tensors(batch).repeat()
        model.fit(
            batches,
            epochs=options.epochs,
            steps_per_epoch=options.steps,
            verbose=0,
            shuffle=False,
            callbacks=[clock],
        )
    return clock.seconds[1:]


if __name__ == "__main__":
    main()
