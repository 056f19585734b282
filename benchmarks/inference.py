"""Speed of one network in float32 on the CPU, beside its peers in the same run.

    pip install -e ".[bench]"
    python benchmarks/inference.py --variant B0 --json figures.json

The predictor's LiteRT file, and `model.predict`, a `tf.function`, ONNX Runtime and OpenVINO
with the same weights each run in a process of their own, and are measured in interleaved
rounds, so that what else runs on the machine weighs on all alike. Ratios are taken within a
round. Every one must first give the Keras model's output; timm's network, in PyTorch with
channels last, has weights of its own. One image is measured, on one core and on all of them
(TensorFlow: on all), and a batch of 32. ONNX Runtime and OpenVINO get a file with a batch of 1
for one image, and one with a free batch for the batch.
"""

import argparse
import importlib.metadata
import json
import os
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from peers import timm_network

import keras_efficientnet as ke
from keras_efficientnet.deploy.benchmarking import (
    measure_interleaved,
    processor,
    ratios,
    serve_model,
)
from keras_efficientnet.deploy.runtime import available_cores

BATCH = 32
TOLERANCE = 1e-4  # of the output's range
OURS = "LiteRT, Predictor"
TIMM = "timm, eager"
# The peer, and how many times its speed ours has to be: on one image, and on a batch.
TARGETS = {"model.predict": 10.0, "ONNX Runtime": 1.0, "OpenVINO": 1.0}
BATCH_TARGETS = {"model.predict": 2.0, TIMM: 1.5, "ONNX Runtime": 1.0}
PACKAGES = ("ai-edge-litert", "tensorflow", "keras", "onnxruntime", "openvino", "timm", "torch")

Run = Callable[[np.ndarray], Any]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--variant", default="B0", help="default: %(default)s")
    parser.add_argument("--repeats", type=int, default=50, help="rounds; default: %(default)s")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--serve", nargs=3, metavar=("NAME", "THREADS", "DIR"), help="internal")
    options = parser.parse_args()
    if options.serve:
        name, threads, folder = options.serve
        serve_model(partial(load, name, int(threads), Path(folder)), BATCH)
        return
    with tempfile.TemporaryDirectory() as folder:
        export(options.variant, Path(folder))
        (Path(folder) / "variant").write_text(options.variant)
        commands = {
            (name, threads): [sys.executable, __file__, "--serve", name, str(threads), folder]
            for threads in sorted({1, available_cores()})
            for name, (_, chooses) in LOADERS.items()
            if chooses or threads == available_cores()
        }
        figures = measure_interleaved(commands, options.repeats)
    report = {
        "variant": options.variant,
        "processor": processor(),
        "cores": available_cores(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "repeats": options.repeats,
        "results": list(compare(figures)),
    }
    print_report(report)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def export(variant: str, folder: Path) -> None:
    """Writes one network in every format, and an image with its scores."""
    model = ke.EfficientNet(variant, classifier_activation=None)
    size = model.input_shape[1]
    pixels = np.random.default_rng(1).integers(0, 256, (1, size, size, 3), np.uint8)
    np.savez(folder / "expected.npz", pixels=pixels, scores=model.predict(pixels, verbose=0))
    model.save(folder / "model.keras")
    ke.deploy.export_tflite(model, folder / "model.tflite")
    ke.deploy.export_onnx(model, folder / "single.onnx")
    ke.deploy.export_onnx(model, folder / "batch.onnx", dynamic_batch=True)


def load(name: str, threads: int, folder: Path) -> tuple[Run, int]:
    """Loads a peer and checks that it computes the same network."""
    run = LOADERS[name][0](folder, threads)
    expected = np.load(folder / "expected.npz")
    if name == TIMM:
        return run, expected["pixels"].shape[1]
    difference = np.abs(run(expected["pixels"]) - expected["scores"]).max()
    if not difference <= TOLERANCE * np.ptp(expected["scores"]):
        raise ValueError(f"{name} gives other scores, by {difference:.1e}")
    return run, expected["pixels"].shape[1]


def predictor(folder: Path, threads: int) -> Run:
    return ke.Predictor(folder / "model.tflite", threads).scores


def predictor_of_keras(folder: Path, threads: int) -> Run:
    return ke.Predictor(folder / "model.keras", threads).scores


def model_predict(folder: Path, threads: int) -> Run:
    model = _keras(folder)
    return lambda images: model.predict(images, batch_size=BATCH, verbose=0)


def tf_function(folder: Path, threads: int) -> Run:
    import tensorflow as tf

    model = _keras(folder)
    function = tf.function(lambda images: model(images, training=False))
    return lambda images: function(tf.constant(images)).numpy()


def _keras(folder: Path):
    import keras

    model = keras.saving.load_model(folder / "model.keras", compile=False)
    model.compile(jit_compile=False)  # XLA would compile for minutes on a CPU
    return model


def onnx_runtime(folder: Path, threads: int) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    single, batch = (
        onnxruntime.InferenceSession(folder / name, options, providers=["CPUExecutionProvider"])
        for name in ("single.onnx", "batch.onnx")
    )

    def run(images):
        session = single if len(images) == 1 else batch
        return session.run(None, {session.get_inputs()[0].name: images.astype(np.float32)})[0]

    return run


def openvino(folder: Path, threads: int) -> Run:
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    single, batch = (
        core.compile_model(
            core.read_model(folder / name), "CPU", {**settings, "PERFORMANCE_HINT": hint}
        ).create_infer_request()
        for name, hint in (("single.onnx", "LATENCY"), ("batch.onnx", "THROUGHPUT"))
    )

    def run(images):
        request = single if len(images) == 1 else batch
        request.infer([images.astype(np.float32)])
        return request.get_output_tensor().data.copy()

    return run


def timm(folder: Path, threads: int) -> Run:
    import torch

    torch.set_num_threads(threads)
    network = timm_network((folder / "variant").read_text()).eval()
    network = network.to(memory_format=torch.channels_last)

    def run(images):
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2)  # channels last in memory
        with torch.inference_mode():
            return network((pixels - 127.0) / 60.0).numpy()

    return run


# Each with whether its number of threads is chosen here.
LOADERS: dict[str, tuple[Callable[[Path, int], Run], bool]] = {
    OURS: (predictor, True),
    "ONNX Runtime": (onnx_runtime, True),
    "OpenVINO": (openvino, True),
    TIMM: (timm, True),
    "Keras, Predictor": (predictor_of_keras, False),
    "tf.function": (tf_function, False),
    "model.predict": (model_predict, False),
}


def compare(figures: dict):
    """Yields the figures of each peer with our speed over its own at as many threads."""
    rounds = ("rounds_ms", "rounds_images_per_second")
    for (name, threads), peer in figures.items():
        ours = figures[OURS, threads]
        kept = {key: value for key, value in peer.items() if key not in rounds}
        yield {
            "name": name,
            "threads": threads,
            **kept,
            "ours_is_faster": ratios(peer["rounds_ms"], ours["rounds_ms"]),
            "ours_is_faster_on_batches": ratios(*(each[rounds[1]] for each in (ours, peer))),
        }


def print_report(report: dict) -> None:
    print(f"{report['variant']}, {report['processor']}, {report['cores']} cores")
    print(
        f"{'':17} threads  min ms  p50 ms{'ours is faster by':>19}  aim"
        f"   images/s{'ours is faster by':>19}  aim"
    )
    for row in report["results"]:
        latency = row["latency_ms"]
        print(
            f"{row['name']:17} {row['threads']:7} {latency['min']:7.2f} {latency['p50']:7.2f}"
            f"{shown(row['ours_is_faster']):>19} {TARGETS.get(row['name'], ''):>4} "
            f"{row['images_per_second']:10.1f}"
            f"{shown(row['ours_is_faster_on_batches']):>19} {BATCH_TARGETS.get(row['name'], ''):>4}"
        )


def shown(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f}-{ratio['highest']:.2f})"


if __name__ == "__main__":
    main()
