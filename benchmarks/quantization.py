"""Quantization methods on one trained network, side by side: fidelity, size and latency.

    pip install -e ".[bench]"
    python benchmarks/quantization.py --data folder:flowers --weights b0.npz --json figures.json

The network is EfficientNet-B0 up to the squeeze-and-excitation of block 7a, with a linear
head fitted on the training images' features: swish, squeeze-and-excitation and ImageNet
weights, without training. Ranges come from 100 training images, the search sees training images
alone, and all figures come from the held-out ones. Latencies are those of one image, measured in
interleaved rounds, over the float file's.
`--lite DATA` adds a Lite0 trained here, by the recipe "small".
"""

import argparse
import importlib.metadata
import json
import os
import tempfile
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
from keras_efficientnet.deploy.benchmarking import processor
from keras_efficientnet.deploy.calibration import CalibrationSet
from keras_efficientnet.deploy.int8_quantizer import plain_int8
from keras_efficientnet.deploy.int8_search import SearchImages, quantize_int8
from keras_efficientnet.deploy.quantization_aware import fine_tune
from keras_efficientnet.deploy.runtime import available_cores
from keras_efficientnet.native_logs import suppress_native_logs

SIZE, CROP = 224, 0.875
PACKAGES = ("ai-edge-litert", "ai-edge-quantizer", "keras", "tensorflow")
FEATURES = "block7a_se"
# Operators that the converter's debugger ranks worst and that are then kept in float.
WORST_OPERATORS = 20


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="folder:DIR, csv:FILE or tfds:NAME")
    parser.add_argument("--weights", required=True, help="published name or file, of B0")
    parser.add_argument("--qat-epochs", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--lite", help="train a Lite0 on this data too, such as digits")
    parser.add_argument("--repeats", type=int, default=40, help="turns; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()

    report: dict[str, Any] = {
        "processor": processor(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }
    with tempfile.TemporaryDirectory() as folder:
        data = ke.data.load(options.data)
        network = probe(options.weights, data)
        files = quantize_by_every_method(network, data, Path(folder), options.qat_epochs)
        report["B0"] = measure(files, data, options.repeats)
    if options.lite:
        report["Lite0"] = lite(options.lite)
    show(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


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
    model: keras.Model, data: ke.data.Dataset, folder: Path, qat_epochs: int
) -> dict[str, Path]:
    calibration = CalibrationSet.from_dataset(data, SIZE, CROP, training=True)
    images = calibration.range_images.astype(np.float32)
    content = converted(model)
    tuned = fine_tune(model, calibration.training_images, qat_epochs, range_images=images)
    ours, _ = quantize_int8(content, SearchImages.of(calibration))
    contents = {
        "float32": content,
        "float16": converted(model, types=[tf.float16]),
        "dynamic range": converted(model, types=[]),
        "int8, converter": converted(model, images),
        "int8, converter, worst operators float": converted(model, images, debug=True),
        "int8, our ranges": plain_int8(content, images),
        "int8, our ranges and search": ours,
        f"int8, our ranges, {qat_epochs} epochs of QAT": plain_int8(converted(tuned), images),
    }
    files = {}
    for index, (name, content) in enumerate(contents.items()):
        files[name] = folder / f"{index}.tflite"
        files[name].write_bytes(content)
    return files


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


def measure(files: dict[str, Path], data: ke.data.Dataset, repeats: int) -> list[dict[str, Any]]:
    pixels, labels = prepared(data.test)
    speeds = ke.deploy.benchmark(list(files.values()), [available_cores()], repeats, batch=1)[
        "results"
    ]
    expected, rows = None, []
    for (name, path), speed in zip(files.items(), speeds, strict=True):
        scores = ke.Predictor(path).scores(pixels)
        expected = scores if expected is None else expected
        rows.append(
            {
                "file": name,
                "accuracy": float(np.mean(scores.argmax(1) == labels)),
                "agreement": float(np.mean(scores.argmax(1) == expected.argmax(1))),
                "size": path.stat().st_size / files["float32"].stat().st_size,
                "latency": 1 / speed["speedup"]["median"],
                "latency_spread": [1 / speed["speedup"][end] for end in ("highest", "lowest")],
            }
        )
    return rows


def lite(data: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        export = ke.train(data, "Lite0", output=Path(folder, "lite0")).export
    files = {file.number_format: asdict(file) for file in export.files if file.format == "tflite"}
    return {"data": data, "images": export.images, **files}


def show(report: dict[str, Any]) -> None:
    table = Table("file", "accuracy", "agreement", "size", "latency", title="B0")
    for row in report["B0"]:
        table.add_row(
            row["file"],
            *(f"{100 * row[key]:.1f} %" for key in ("accuracy", "agreement")),
            *(f"{row[key]:.2f}x" for key in ("size", "latency")),
        )
    Console().print(table)
    if "Lite0" in report:
        found = report["Lite0"]
        print(
            f"Lite0 on {found['data']}, {found['images']} held-out images: int8 agrees on "
            f"{found['int8']['agreement']:.1%}, accuracy {found['int8']['accuracy']:.1%} against "
            f"{found['float32']['accuracy']:.1%}."
        )


if __name__ == "__main__":
    main()
