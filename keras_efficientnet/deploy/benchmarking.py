"""Latency, throughput, load time and memory of model files, side by side.

Every model runs in a process of its own, so that load time and memory are its own, and the
measurements are interleaved in rounds, so that what else runs on the machine weighs on all alike.
Ratios are taken within a round.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from keras_efficientnet.bars import Bar
from keras_efficientnet.deploy import runtime
from keras_efficientnet.deploy.fresh_interpreter import handle_requests, start_worker
from keras_efficientnet.errors import InputError, require
from keras_efficientnet.files import size_in_bytes
from keras_efficientnet.native_logs import suppress_native_logs

# Single images that one round times, after one that is not timed: the others have used the
# caches meanwhile.
IMAGES_PER_ROUND = 3
# Every so many rounds the batch is timed too.
ROUNDS_PER_BATCH = 10
LATENCY_SECONDS = 0.5


def benchmark(
    models: Sequence[str | os.PathLike],
    threads: Sequence[int] | None = None,
    repeats: int = 50,
    batch: int = 32,
) -> dict[str, Any]:
    """Measures model files beside one another on the CPU.

    The network is measured, on prepared random images; decoding is not.

    Args:
        models: .keras, .tflite and .onnx files and SavedModel folders.
        threads: numbers of cores to measure each with; 1 and all if None.
        repeats: number of rounds; each times three single images with every model.
        batch: images that are given at once to measure throughput.

    Returns:
        `machine`, `repeats`, `batch`, and `results`, one map for each model and number of
        threads: `model`; `threads`; `size` in bytes; `load_seconds`, from opening the file to
        the first output, with the import of its runtime; `latency_ms` for one image, `min`
        and the percentiles `p50`, `p90` and `p99`; `images_per_second` of the batch;
        `peak_memory` of the process in bytes (None where the system does not tell); and
        `speedup`, the first model's latency over this one's at as many threads: `median`,
        `lowest` and `highest` over the rounds.

    Raises:
        InputError: if a model cannot be loaded, or a number is below 1.
    """
    counts = sorted(set(threads or (1, runtime.available_cores())))
    for name, value in (("repeats", repeats), ("batch", batch), ("threads", counts[0])):
        require(value >= 1, name, value, "at least 1")
    if not models:
        raise InputError("benchmark needs at least one model file.")
    command = [sys.executable, "-m", __name__]
    commands = {
        (str(Path(model)), count): [*command, str(model), str(count), str(batch)]
        for model in models
        for count in counts
    }
    found = measure_interleaved(commands, repeats)
    results = [
        {
            "model": model,
            "threads": count,
            "size": size_in_bytes(Path(model)),
            **{name: value for name, value in figures.items() if not name.startswith("rounds")},
            "speedup": ratios(
                found[str(Path(models[0])), count]["rounds_ms"], figures["rounds_ms"]
            ),
        }
        for (model, count), figures in found.items()
    ]
    return {
        "machine": {"processor": processor(), "cores": runtime.available_cores()},
        "repeats": repeats,
        "batch": batch,
        "results": results,
    }


def measure_interleaved(
    commands: Mapping[Any, list[str]], rounds: int
) -> dict[Any, dict[str, Any]]:
    """Measures programs that end in `serve_model`, in rounds.

    Args:
        commands: the program of each; `{key: command}`.
        rounds: in each of which every program is measured once.

    Returns:
        For each key `load_seconds`, `latency_ms`, `images_per_second` and `peak_memory` as
        `benchmark` gives them, and of each round `rounds_ms`, the median latency, and
        `rounds_images_per_second`, where the batch was timed.

    Raises:
        InputError: if a program cannot load its model.
    """
    with ExitStack() as stack:
        # One after the other, so that none loads while another is measured.
        workers = {key: stack.enter_context(start_worker(cmd)) for key, cmd in commands.items()}
        latencies: dict[Any, list[list[float]]] = {key: [] for key in workers}
        rates: dict[Any, list[float]] = {key: [] for key in workers}
        for number in Bar(range(rounds), desc="Measuring", unit="round", leave=False):
            for key, worker in workers.items():
                latencies[key].append(worker.request("latency"))
                if number % ROUNDS_PER_BATCH == 0:
                    rates[key].append(worker.request("throughput"))
        return {
            key: {
                "load_seconds": worker.loaded,
                "latency_ms": _percentiles(np.concatenate(latencies[key])),
                "images_per_second": round(statistics.median(rates[key]), 2),
                "peak_memory": worker.request("memory"),
                "rounds_ms": [1000 * statistics.median(times) for times in latencies[key]],
                "rounds_images_per_second": rates[key],
            }
            for key, worker in workers.items()
        }


def single_image_latency(path: Path, image: np.ndarray) -> float:
    """Returns a model file's median time for one image, in milliseconds.

    It is opened in this process, and measured for `LATENCY_SECONDS`.

    Args:
        path: of the file.
        image: as the network takes it, `[height, width, channels]`.
    """
    with suppress_native_logs():  # LiteRT has notes on every file that it opens
        run = runtime.open_model(path).run
        run(image[None])
        seconds: list[float] = []
        while sum(seconds) < LATENCY_SECONDS:
            seconds.append(_seconds(run, image[None]))
    return 1000 * statistics.median(seconds)


def ratios(first: Sequence[float], second: Sequence[float]) -> dict[str, float]:
    """Returns the median, lowest and highest ratio of two series, pair by pair."""
    values = [a / b for a, b in zip(first, second, strict=True)]
    return {
        "median": round(statistics.median(values), 3),
        "lowest": round(min(values), 3),
        "highest": round(max(values), 3),
    }


def processor() -> str:
    """Returns the processor's name where the system tells it, else its architecture."""
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _percentiles(seconds: np.ndarray) -> dict[str, float]:
    shares = {"min": 0, "p50": 50, "p90": 90, "p99": 99}
    values = np.percentile(1000 * seconds, list(shares.values()))
    return {name: round(float(value), 3) for name, value in zip(shares, values, strict=True)}


def _seconds(run: Callable[[np.ndarray], Any], images: np.ndarray) -> float:
    start = time.perf_counter()
    run(images)
    return time.perf_counter() - start


def serve_model(load: Callable[[], tuple[Callable[[np.ndarray], Any], int]], batch: int) -> None:
    """The worker's side of `measure_interleaved`: loads a model, and measures it when asked to.

    Args:
        load: returns a function of prepared images `[count, size, size, 3]`, and the size.
        batch: images of the throughput measure.
    """

    def load_and_warm_up():
        start = time.perf_counter()
        run, size = load()
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        run(pixels[:1])
        load_seconds = round(time.perf_counter() - start, 3)
        run(pixels)  # whatever is set up for a first batch

        def latency():
            run(pixels[:1])
            return [_seconds(run, pixels[:1]) for _ in range(IMAGES_PER_ROUND)]

        return load_seconds, {
            "latency": latency,
            "throughput": lambda: batch / _seconds(run, pixels),
            "memory": peak_memory,
        }

    handle_requests(load_and_warm_up)


def peak_memory() -> int | None:
    """Returns the largest memory of this process so far, in bytes, if the system tells it."""
    try:
        # Not getrusage, which on Linux starts at the size of the process that began this one.
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.partition("VmHWM:")[2].split()[0])
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _serve_file(path: str, threads: int, batch: int) -> None:
    # TensorFlow reads them when it starts; the predictor tells LiteRT.
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(threads)

    def load():
        from keras_efficientnet.deploy.predictor import Predictor

        predictor = Predictor(path, threads, trust=True)  # in a process of its own already
        return predictor.scores, predictor.description.image_size

    serve_model(load, batch)


if __name__ == "__main__":
    model_path, thread_count, batch_size = sys.argv[1:]
    _serve_file(model_path, int(thread_count), int(batch_size))
