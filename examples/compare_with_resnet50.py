"""Exercise 1: EfficientNet-B0 and ResNet-50 on CIFAR-10, by one recipe on one budget.

    python examples/compare_with_resnet50.py --data folder:cifar10
    python examples/compare_with_resnet50.py --data tfds:cifar10 --train-images 0 \
        --test-images 0 --epochs 100 --batch-size 256 --precision mixed_bfloat16

The first is a budget for two CPU cores: 5,000 training and 2,000 held-out images. The
second, with 0 for all images, is meant for a GPU. Both networks start from random weights,
see the same images in the same order and are trained for equally many epochs. Two times are
given: by the clock, the one that counts on a GPU, and of the processor, which is the better
measure where other work shares a CPU.
"""

import argparse
import json
import time
from pathlib import Path

import keras
from rich.console import Console
from rich.table import Table

import keras_efficientnet as ke

NETWORKS = ("EfficientNet-B0", "ResNet-50")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder:DIR, csv:FILE or tfds:NAME")
    parser.add_argument("--train-images", type=int, default=5000, help="0 for all")
    parser.add_argument("--test-images", type=int, default=2000, help="0 for all")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    data = ke.data.load(options.data)
    data = ke.study.subset(data, options.train_images or None, options.test_images or None)
    recipe = ke.training.recipe("small", epochs=options.epochs, batch_size=options.batch_size)
    results = [measure(name, data, recipe, options) for name in NETWORKS]
    show(results, data, options)
    if options.json:
        figures = {**vars(options), "json": None, "results": results}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def build(name: str, size: int, classes: int, drop_connect_rate: float) -> keras.Model:
    """Builds a network for raw RGB pixels."""
    if name == "EfficientNet-B0":
        return ke.EfficientNetB0(
            weights=None,
            input_shape=(size, size, 3),
            classes=classes,
            drop_connect_rate=drop_connect_rate,
        )
    images = keras.Input((size, size, 3))
    pixels = keras.layers.Rescaling(1 / 127.5, offset=-1)(images)
    return keras.applications.ResNet50(weights=None, input_tensor=pixels, classes=classes)


def measure(name: str, data: ke.data.Dataset, recipe, options) -> dict:
    """Trains a network and returns its row of the table."""
    keras.utils.set_random_seed(options.seed)
    keras.config.set_dtype_policy(options.precision)
    size = options.image_size
    model = build(name, size, len(data.class_names), recipe.drop_connect_rate)
    held_out = ke.data.evaluation_arrays(data.test, size, data.crop_fraction, len(data.test))
    print(f"{name}:")
    started, cpu_started = time.perf_counter(), time.process_time()
    history = ke.training.fit(
        model,
        data,
        recipe,
        image_size=size,
        seed=options.seed,
        held_out=held_out,
        run_config=ke.training.RunConfig(precision=options.precision),
    )
    return {
        "network": name,
        "accuracy": history[-1]["val_accuracy"],
        "best_accuracy": max(row["val_accuracy"] for row in history),
        "parameters": model.count_params(),
        "multiply_adds": ke.study.multiply_adds(model),
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "history": history,
    }


def show(results: list[dict], data: ke.data.Dataset, options) -> None:
    table = Table(
        title=f"{len(data.train):,} training and {len(data.test):,} held-out images of "
        f"{options.image_size} px, {options.epochs} epochs"
    )
    for column in ("network", "accuracy", "parameters", "multiply-adds", "time", "CPU time"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in results:
        table.add_row(
            row["network"],
            f"{100 * row['accuracy']:.1f} %",
            f"{row['parameters'] / 1e6:.1f} M",
            f"{row['multiply_adds'] / 1e6:.0f} M",
            f"{row['seconds'] / results[0]['seconds']:.2f}x",
            f"{row['cpu_seconds'] / results[0]['cpu_seconds']:.2f}x",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
