"""Training on a GPU in bfloat16, beside keras.applications and timm.

    pip install -e ".[bench]"
    python benchmarks/gpu_training.py --json figures.json

Every network is trained in a process of its own on one random batch: Keras' with XLA and
without, by `train_on_batch` under the policy mixed_bfloat16, and timm's channels-last
under autocast, compiled. The batch is 128 and then the largest power of two that
fits. The share of the card's peak counts two operations for a multiply-add and three passes
for a step. The input pipeline is measured on JPEG files with the paper's augmentation, with
the number of cores like this machine's that would keep the card busy. `--device cpu` tries the
script without a GPU, where XLA would take minutes: name the other `--networks`.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from peers import (
    Step,
    keras_applications_network,
    keras_step,
    parse,
    report,
    row,
    serving,
    timm_network,
    torch_step,
)

import keras_efficientnet as ke
from keras_efficientnet.deploy.fresh_interpreter import handle_requests, start_worker
from keras_efficientnet.deploy.runtime import available_cores
from keras_efficientnet.errors import InputError, RunError

PACKAGES = ("keras", "tensorflow", "timm", "torch")
OURS, OURS_XLA = "keras_efficientnet", "keras_efficientnet, XLA"
KERAS, KERAS_XLA, TIMM = "keras.applications", "keras.applications, XLA", "timm, compiled"
PIPELINE = "input pipeline"
# Dense bfloat16 of the vendor's data sheets, in operations a second.
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
OPERATIONS_A_STEP = 2 * 3  # for each multiply-add
WARM_UP = 3
MAX_BATCH = 4096


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variants", nargs="+", default=["B0", "B4", "B7"])
    parser.add_argument("--image-size", type=int, help="default: the variant's own")
    parser.add_argument("--batch-size", type=int, default=128, help="default: %(default)s")
    parser.add_argument("--max-batch", type=int, default=MAX_BATCH, help="default: %(default)s")
    parser.add_argument("--steps", type=int, default=20, help="per turn; default: %(default)s")
    parser.add_argument("--turns", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--images", help="folder of JPEG files for the pipeline")
    parser.add_argument("--networks", nargs="+", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu")
    options = parse(parser, serve)
    with tempfile.TemporaryDirectory() as folder:
        options.scratch = folder
        rows, figures = measure_all(options)
    report(options, PACKAGES, rows, variants=figures)


def measure_all(options: Any) -> tuple[list[dict], list[dict]]:
    rows, figures = [], []
    for variant in options.variants:
        size = options.image_size or ke.spec.VARIANTS[variant].resolution
        rates = {name: measure(name, options, variant, size) for name in options.networks}
        feed = max(turns(PIPELINE, options, variant, size, options.batch_size) or [0.0])
        figures.append(summary(variant, size, rates, feed))
        rows += compare(variant, rates)
    return rows, figures


def measure(name: str, options: Any, variant: str, size: int) -> dict[int, list[float]]:
    """Returns the images per second of each turn, by batch: the given one and up or down."""
    found: dict[int, list[float]] = {}
    batch = options.batch_size
    while rates := turns(name, options, variant, size, batch):
        found[batch] = rates
        batch *= 2
        if batch > options.max_batch:
            break
    batch = options.batch_size // 2
    while not found and batch:
        if rates := turns(name, options, variant, size, batch):
            found[batch] = rates
        batch //= 2
    return found


def turns(name: str, options: Any, variant: str, size: int, batch: int) -> list[float]:
    """Returns the images per second of each turn; none where the batch does not fit."""
    given = {**vars(options), "variant": variant, "image_size": size, "batch_size": batch}
    try:
        with start_worker(serving(__file__, name, argparse.Namespace(**given))) as process:
            rates = [process.request("turn") for _ in range(options.turns)]
    except (InputError, RunError) as error:
        print(f"{variant}, {name}, batch {batch}: {str(error)[:200]}", flush=True)
        return []
    print(f"{variant}, {name}, batch {batch}: {np.median(rates):.1f} images/s", flush=True)
    return rates


def compare(variant: str, rates: dict[str, dict[int, list[float]]]) -> list[dict]:
    """Ours over each peer's, at each one's fastest batch, with or without XLA."""
    best = {name: max(found.values(), key=np.median) for name, found in rates.items() if found}
    rows = []
    for peer, names in (("keras.applications", (KERAS, KERAS_XLA)), (TIMM, (TIMM,))):
        ours = [best[name] for name in (OURS, OURS_XLA) if name in best]
        theirs = [best[name] for name in names if name in best]
        if ours and theirs:
            fastest = [max(group, key=np.median) for group in (ours, theirs)]
            rows.append(row(f"{variant} images/s", peer, *fastest))
    return rows


def summary(variant: str, size: int, rates: dict, feed: float) -> dict[str, Any]:
    work = OPERATIONS_A_STEP * ke.cost.network_cost(variant, size).multiply_adds
    peak = peak_of_card()
    networks = {
        name: {
            "images_per_second": {
                batch: round(float(np.median(v)), 1) for batch, v in found.items()
            },
            "largest_batch": max(found, default=None),
            "share_of_peak": peak
            and max((float(np.median(v)) * work / peak for v in found.values()), default=None),
        }
        for name, found in rates.items()
    }
    fastest = max(
        (float(np.median(v)) for found in rates.values() for v in found.values()), default=0
    )
    cores = available_cores()
    return {
        "variant": variant,
        "image_size": size,
        "networks": networks,
        "pipeline_images_per_second": round(feed, 1),
        "cores": cores,
        "cores_that_would_feed_it": round(cores * fastest / feed, 1) if feed else None,
    }


def peak_of_card() -> float | None:
    import torch

    if not torch.cuda.is_available():
        return None
    card = torch.cuda.get_device_name()
    return next((peak for name, peak in PEAKS.items() if name in card), None)


def serve(name: str, options: Any) -> None:
    def load():
        if name == PIPELINE:
            following = pipeline(options)
        else:
            rng = np.random.default_rng(0)
            shape = (options.batch_size, options.image_size, options.image_size, 3)
            pixels = rng.integers(0, 256, shape, np.uint8)
            following = NETWORKS[name](options, pixels, rng.integers(0, 1000, options.batch_size))
        for _ in range(WARM_UP):
            if not np.isfinite(following()):
                raise ValueError(f"{name} has no finite loss")

        def turn():
            start = time.perf_counter()
            for _ in range(options.steps):
                following()
            return options.steps * options.batch_size / (time.perf_counter() - start)

        return None, {"turn": turn}

    handle_requests(load)


def in_keras(build: Callable, options: Any, pixels, labels, *, xla: bool) -> Step:
    import keras
    import tensorflow as tf

    if options.device == "gpu" and not tf.config.list_physical_devices("GPU"):
        raise InputError("TensorFlow sees no GPU; --device cpu tries the script without one.")
    keras.config.set_dtype_policy("mixed_bfloat16")
    model = build(options.variant, input_shape=pixels.shape[1:])
    on_the_card = tf.constant(pixels), tf.constant(labels)
    return keras_step(model, *on_the_card, jit_compile=xla)


def timm(options: Any, pixels: np.ndarray, labels: np.ndarray) -> Step:
    import torch

    device = "cuda" if options.device == "gpu" else "cpu"
    network = timm_network(options.variant).train().to(device, memory_format=torch.channels_last)
    images = (torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2).float() - 127) / 60
    targets = torch.from_numpy(labels).to(device)
    compiled = torch.compile(network) if options.device == "gpu" else network
    return torch_step(compiled, images, targets, lambda: torch.autocast(device, torch.bfloat16))


NETWORKS: dict[str, Callable[[Any, np.ndarray, np.ndarray], Step]] = {
    OURS: partial(in_keras, ke.EfficientNet, xla=False),
    OURS_XLA: partial(in_keras, ke.EfficientNet, xla=True),
    KERAS: partial(in_keras, keras_applications_network, xla=False),
    KERAS_XLA: partial(in_keras, keras_applications_network, xla=True),
    TIMM: timm,
}


def pipeline(options: Any) -> Step:
    """What gives the paper's augmented batches from JPEG files."""
    from input_pipeline import data_set, jpeg_files

    from keras_efficientnet.data.pipeline import training_batches

    files = jpeg_files(options.images and Path(options.images), Path(options.scratch))
    augmentation = ke.training.recipe("paper").augmentation
    batches = iter(
        training_batches(
            data_set(files, 0),
            options.image_size,
            options.batch_size,
            seed=1,
            augmentation=augmentation,
        )
    )

    def following() -> float:
        next(batches)
        return 0.0

    return following


if __name__ == "__main__":
    main()
