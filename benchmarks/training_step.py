"""Speed and memory of a training step on the CPU, beside keras.applications and timm.

    pip install -e ".[bench]"
    python benchmarks/training_step.py --variant B0 --json figures.json
    python benchmarks/training_step.py --peers bfloat16 jit_compile

Each network trains in a process of its own on one random batch, as its users would: Keras
by `train_on_batch`, timm by PyTorch with channels last; all with RMSprop and
cross-entropy in float32. keras.applications' network and ours normalize pixels in the graph;
timm is given normalized ones. Two more peers are our own network: in mixed bfloat16, and compiled
by XLA as a whole. The processes take turns, and ratios are taken within a turn.
Memory is the process's peak after two steps, less what it used before the first. Linux only.
"""

import argparse
from collections.abc import Callable
from functools import partial

import numpy as np
from peers import (
    CLOCKS,
    Step,
    keras_applications_network,
    keras_step,
    parse,
    report,
    row,
    serving,
    take_turns,
    timed,
    timm_network,
    torch_step,
)

from keras_efficientnet.deploy.benchmarking import peak_memory
from keras_efficientnet.deploy.fresh_interpreter import handle_requests
from keras_efficientnet.deploy.runtime import available_cores

OURS, KERAS, TIMM = "keras_efficientnet", "keras.applications", "timm"
BFLOAT16, COMPILED = "bfloat16", "jit_compile"
PACKAGES = ("keras", "tensorflow", "timm", "torch")
STEPS_A_TURN = 3
# Targets: our speed and memory as multiples of the peer's.
SPEED = {KERAS: 1.6, TIMM: 1.4}
MEMORY = {KERAS: 0.75}


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="B0", help="B0-B7; default: %(default)s")
    parser.add_argument("--image-size", type=int, default=224, help="default: %(default)s")
    parser.add_argument("--batch-size", type=int, default=16, help="default: %(default)s")
    parser.add_argument("--turns", type=int, default=7, help="in a round; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="of processes; default: %(default)s")
    parser.add_argument("--peers", nargs="+", choices=list(STEPS)[1:], default=list(SPEED))
    options = parse(parser, serve)
    names = (OURS, *options.peers)
    memory = {name: [] for name in names}
    seconds = {name: {clock: [] for clock in CLOCKS} for name in names}
    for _ in range(options.rounds):
        commands = {name: serving(__file__, name, options) for name in names}
        for name, (held, turns) in take_turns(commands, options.turns).items():
            memory[name].append(held)
            for clock, found in turns.items():
                seconds[name][clock] += found
    rows = [
        row(
            f"images/s of {clock} time",
            peer,
            seconds[peer][clock],
            seconds[OURS][clock],
            SPEED.get(peer),
        )
        for clock in CLOCKS
        for peer in options.peers
    ] + [
        row("peak memory", peer, memory[OURS], memory[peer], at_most=MEMORY.get(peer))
        for peer in options.peers
    ]
    report(options, PACKAGES, rows, seconds=seconds, memory_bytes=memory)


def serve(name: str, options: argparse.Namespace) -> None:
    def load():
        rng = np.random.default_rng(0)
        side = options.image_size
        pixels = rng.uniform(0, 255, (options.batch_size, side, side, 3)).astype(np.float32)
        step = STEPS[name](options.variant, pixels, rng.integers(0, 1000, options.batch_size))
        before = resident_bytes()
        step()
        if not np.isfinite(step()):
            raise ValueError(f"{name} has no finite loss")
        return peak_memory() - before, {"step": timed(step, STEPS_A_TURN)}

    handle_requests(load)


def ours(
    variant: str, pixels: np.ndarray, labels: np.ndarray, jit_compile: bool | str = "auto"
) -> Step:
    import keras_efficientnet as ke

    model = ke.EfficientNet(variant, input_shape=pixels.shape[1:])
    return keras_step(model, pixels, labels, jit_compile)


def ours_in_bfloat16(variant: str, pixels: np.ndarray, labels: np.ndarray) -> Step:
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    return ours(variant, pixels, labels)


def keras_applications(variant: str, pixels: np.ndarray, labels: np.ndarray) -> Step:
    model = keras_applications_network(variant, input_shape=pixels.shape[1:])
    return keras_step(model, pixels, labels)


def timm(variant: str, pixels: np.ndarray, labels: np.ndarray) -> Step:
    import torch

    torch.set_num_threads(available_cores())
    network = timm_network(variant).train().to(memory_format=torch.channels_last)
    images = torch.from_numpy((pixels - 127) / 60).permute(0, 3, 1, 2)  # channels last in memory
    return torch_step(network, images, torch.from_numpy(labels))


STEPS: dict[str, Callable[[str, np.ndarray, np.ndarray], Step]] = {
    OURS: ours,
    KERAS: keras_applications,
    TIMM: timm,
    BFLOAT16: ours_in_bfloat16,
    COMPILED: partial(ours, jit_compile=True),
}


def resident_bytes() -> int:
    with open("/proc/self/status") as file:
        return 1024 * int(file.read().partition("VmRSS:")[2].split()[0])


if __name__ == "__main__":
    main()
