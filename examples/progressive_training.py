"""Exercise 4: progressive against fixed resolution on equal epochs.

    python examples/progressive_training.py --data folder:flowers --weights imagenet
    python examples/progressive_training.py --data folder:cifar10 --image-size 64 \
        --first-size 32 --train-images 5000 --test-images 2000

Every run sees the same images for equally many epochs and ends at the same size. Progressive
training begins with smaller images and weaker regularization; `fixed` has the last stage's
from the start. With several seeds, the standard deviation of the accuracy is given. Where other
work shares the processor, its time is a better measure than the clock's.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import keras
from rich.console import Console
from rich.table import Table

import keras_efficientnet as ke


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder:DIR, csv:FILE or tfds:NAME")
    parser.add_argument("--model", default="B0", help="variant, such as B0 or V2-S")
    parser.add_argument("--weights", help="published name or file; random if not given")
    parser.add_argument("--train-images", type=int, default=0, help="0 for all")
    parser.add_argument("--test-images", type=int, default=0, help="0 for all")
    parser.add_argument("--image-size", type=int, default=192, help="of the last stage")
    parser.add_argument("--first-size", type=int, default=96, help="from which images grow")
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()

    data = ke.data.load(options.data)
    data = ke.study.subset(data, options.train_images or None, options.test_images or None)
    runs = [
        measure(kind, stages, seed, data, options)
        for seed in range(options.seeds)
        for kind, stages in (("fixed", 1), ("progressive", options.stages))
    ]
    show(runs)
    if options.json:
        figures = {**vars(options), "json": None, "runs": runs}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def measure(kind: str, stages: int, seed: int, data: ke.data.Dataset, options) -> dict:
    """Trains once; a fixed resolution is a progression of one stage."""
    # Few epochs: the schedule and the batch of the recipe for that.
    short = ke.training.recipe("finetune" if options.weights else "small", epochs=options.epochs)
    names = ("epochs", "batch_size", "base_learning_rate", "warmup_epochs", "decay_epochs")
    names += ("initial_mean_square", "l2", "ema_decay", "drop_connect_rate", "batch_norm_momentum")
    recipe = ke.training.recipe(
        "v2-progressive",
        options.model,
        **{name: getattr(short, name) for name in names},
        stages=stages,
        image_size=options.first_size,
        min_crop_area=short.augmentation.min_crop_area,
    )
    print(f"{kind}, seed {seed}\n{ke.training.describe_recipe(recipe, options.image_size)}")
    keras.utils.set_random_seed(seed)
    model = ke.EfficientNet(
        options.model,
        input_shape=(None, None, 3),
        classes=len(data.class_names),
        drop_connect_rate=recipe.drop_connect_rate,
    )
    if options.weights:
        ke.load_weights(model, options.weights, strict=False)
    held_out = ke.data.evaluation_arrays(
        data.test, options.image_size, data.crop_fraction, len(data.test)
    )
    started, cpu_started = time.perf_counter(), time.process_time()
    history = ke.training.fit(
        model, data, recipe, image_size=options.image_size, seed=seed, held_out=held_out
    )
    return {
        "kind": kind,
        "seed": seed,
        "accuracy": history[-1]["val_accuracy"],
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu_started,
        "history": history,
    }


def show(runs: list[dict]) -> None:
    table = Table("resolution", "accuracy", "time", "CPU time")

    def mean(kind, name):
        return statistics.mean(run[name] for run in runs if run["kind"] == kind)

    for kind in ("fixed", "progressive"):
        accuracies = [100 * run["accuracy"] for run in runs if run["kind"] == kind]
        spread = f" ± {statistics.stdev(accuracies):.1f}" if len(accuracies) > 1 else ""
        table.add_row(
            kind,
            f"{statistics.mean(accuracies):.1f}{spread} %",
            *(
                f"{mean(kind, name) / mean('fixed', name):.2f}x"
                for name in ("seconds", "cpu_seconds")
            ),
        )
    Console().print(table)


if __name__ == "__main__":
    main()
