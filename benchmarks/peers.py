"""What the benchmarks share: networks of other packages, interleaved processes, and reports."""

import argparse
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_efficientnet.deploy.benchmarking import processor, ratios
from keras_efficientnet.deploy.fresh_interpreter import start_worker
from keras_efficientnet.deploy.runtime import available_cores

Step = Callable[[], float]
"""One step of training on one batch, which returns the loss."""
# What every network is trained with.
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
CLOCKS = {"wall": time.perf_counter, "CPU": time.process_time}

# What importing torchvision asks for, where its compiled operators do not fit the PyTorch.
_TORCHVISION_OPERATORS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, int pooled_height, "
    "int pooled_width, int sampling_ratio, bool aligned) -> Tensor",
)


def timm_network(variant: str, classes: int = 1000) -> Any:
    """Builds timm's network of the same name, B0 to B7, with random weights."""
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _TORCHVISION_OPERATORS:
            library.define(schema)
    import timm

    return timm.create_model(f"efficientnet_{variant.lower()}", num_classes=classes)


def keras_applications_network(variant: str, **options: Any) -> Any:
    """Builds keras.applications' network of the same name, B0 to B7, with random weights."""
    import keras

    return getattr(keras.applications, f"EfficientNet{variant}")(weights=None, **options)


def keras_step(model: Any, images: Any, labels: Any, jit_compile: bool | str = "auto") -> Step:
    """Compiles a Keras network, and returns its step."""
    import keras

    optimizer = keras.optimizers.RMSprop(LEARNING_RATE, momentum=MOMENTUM)
    model.compile(optimizer, "sparse_categorical_crossentropy", jit_compile=jit_compile)
    return lambda: float(np.ravel(model.train_on_batch(images, labels))[0])


def torch_step(
    network: Any,
    images: Any,
    labels: Any,
    precision: Callable[[], AbstractContextManager] = nullcontext,
) -> Step:
    """Returns the step of a network in PyTorch, whose loss is computed within `precision`."""
    import torch

    optimizer = torch.optim.RMSprop(network.parameters(), LEARNING_RATE, momentum=MOMENTUM)

    def step():
        optimizer.zero_grad()
        with precision():
            loss = torch.nn.functional.cross_entropy(network(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serving(script: str, name: str, options: argparse.Namespace) -> list[str]:
    """Returns the command of a worker that measures a peer: this script, with its options."""
    return [sys.executable, script, "--serve", name, "--options", json.dumps(vars(options))]


def parse(parser: argparse.ArgumentParser, serve: Callable[[str, Any], None] | None = None) -> Any:
    """Reads a script's options; in a worker started by `serving`, runs it and does not return."""
    parser.add_argument("--json", metavar="FILE", help="write all figures to this file")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve and serve:
        serve(options.serve, argparse.Namespace(**options.options))
        sys.exit()
    return options


def timed(step: Callable[[], Any], count: int) -> Callable[[], list[dict[str, float]]]:
    """Returns a function that measures so many steps: the seconds of each, by wall and CPU clock.

    CPU time, of all threads, says what a step costs on a machine that is busy with other work.
    """

    def measure():
        found = []
        for _ in range(count):
            starts = {name: clock() for name, clock in CLOCKS.items()}
            step()
            found.append({name: clock() - starts[name] for name, clock in CLOCKS.items()})
        return found

    return measure


def take_turns(
    commands: Mapping[str, list[str]], repeats: int
) -> dict[str, tuple[Any, dict[str, list[float]]]]:
    """Measures workers that respond to "step" by `timed`, one after the other in each turn.

    What else runs on the machine weighs on all alike.

    Returns:
        For each its response to loading, and by each clock the median seconds of a step in each
        turn.
    """
    with ExitStack() as stack:
        workers = {name: stack.enter_context(start_worker(cmd)) for name, cmd in commands.items()}
        turns = {name: {clock: [] for clock in CLOCKS} for name in workers}
        for _ in tqdm(range(repeats), "Measuring", unit="turn", leave=False, disable=None):
            for name, worker in workers.items():
                steps = worker.request("step")
                for clock, found in turns[name].items():
                    found.append(statistics.median(step[clock] for step in steps))
        return {name: (worker.loaded, turns[name]) for name, worker in workers.items()}


def row(
    figure: str,
    peer: str,
    ours: Sequence[float],
    theirs: Sequence[float],
    at_least: float | None = None,
    at_most: float | None = None,
) -> dict[str, Any]:
    """Returns one line of a report: ours over the peer's, pair by pair, and what to reach."""
    ratio = ratios(ours, theirs)
    line: dict[str, Any] = {"figure": figure, "peer": peer, "ratio": ratio}
    if at_least is not None:
        line |= {"to_reach": f">= {at_least:g}", "reached": ratio["median"] >= at_least}
    if at_most is not None:
        line |= {"to_reach": f"<= {at_most:g}", "reached": ratio["median"] <= at_most}
    return line


def report(
    options: argparse.Namespace, packages: Sequence[str], rows: Sequence[dict], **figures: Any
) -> None:
    """Prints the lines, and writes them with the machine and all figures where asked to."""
    print(f"{processor()}, {available_cores()} cores")
    for line in rows:
        ratio = line["ratio"]
        aim = (
            f"   {line['to_reach']}, {'yes' if line['reached'] else 'NO'}"
            if "reached" in line
            else ""
        )
        print(
            f"{line['figure']} / {line['peer']}: {ratio['median']:.3g} "
            f"({ratio['lowest']:.3g}-{ratio['highest']:.3g}){aim}"
        )
    if options.json:
        shown = {key: value for key, value in vars(options).items() if key not in _INTERNAL}
        content = {
            "options": shown,
            "processor": processor(),
            "cores": available_cores(),
            "versions": {name: importlib.metadata.version(name) for name in packages},
            "results": list(rows),
            **figures,
        }
        Path(options.json).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


_INTERNAL = ("json", "serve", "options")
