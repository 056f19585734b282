"""Latency, throughput, load time and memory of model files, side by side.

Every model runs in a process of its own, so that load time and memory are its own, and the
processes take turns, so that what else runs on the machine weighs on all alike. Ratios are
taken within a turn.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from keras_efficientnet.deploy import runtime
from keras_efficientnet.errors import InputError, reason
from keras_efficientnet.files import size_in_bytes

# Single images that one turn times, after one that is not timed: the others have used the
# caches meanwhile.
IMAGES_A_TURN = 3
# Every so many turns the batch is timed too.
TURNS_A_BATCH = 10


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
        repeats: turns that each model takes; each times three single images.
        batch: images that are given at once to measure throughput.

    Returns:
        `machine`, `repeats`, `batch`, and `results`, one map for each model and number of
        threads: `model`; `threads`; `size` in bytes; `load_seconds`, from opening the file to
        the first answer, with the import of its runtime; `latency_ms` for one image, `min`
        and the percentiles `p50`, `p90` and `p99`; `images_per_second` of the batch;
        `peak_memory` of the process in bytes (None where the system does not tell); and
        `speedup`, the first model's latency over this one's at as many threads: `median`,
        `lowest` and `highest` over the turns.

    Raises:
        InputError: if a model cannot be loaded, or a number is below 1.
    """
    for name, value in (
        ("repeats", repeats),
        ("batch", batch),
        *(("threads", n) for n in threads or ()),
    ):
        if value < 1:
            raise InputError(f"{name}={value} must be at least 1.")
    if not models:
        raise InputError("benchmark needs at least one model file.")
    paths = [Path(model) for model in models]
    counts = sorted(set(threads or (1, runtime.available_cores())))
    commands = {
        (str(path), count): [sys.executable, "-m", __name__, str(path), str(count), str(batch)]
        for path in paths
        for count in counts
    }
    results = [
        {"model": path, "threads": count, "size": size_in_bytes(Path(path)), **figures}
        for (path, count), figures in take_turns(commands, repeats).items()
    ]
    for result in results:
        first = next(peer for peer in results if peer["threads"] == result["threads"])
        result["speedup"] = ratios(first["turns_ms"], result["turns_ms"])
    for result in results:
        del result["turns_ms"], result["turns_images_per_second"]
    return {
        "machine": {"processor": processor(), "cores": runtime.available_cores()},
        "repeats": repeats,
        "batch": batch,
        "results": results,
    }


def take_turns(commands: Mapping[Any, list[str]], repeats: int) -> dict[Any, dict[str, Any]]:
    """Measures programs that `serve` a model, in turns.

    Args:
        commands: the program of each; `{key: command}`.
        repeats: number of turns.

    Returns:
        For each key `load_seconds`, `latency_ms`, `images_per_second` and `peak_memory` as
        `benchmark` gives them, and of each turn `turns_ms`, the median latency, and
        `turns_images_per_second`, where the batch was timed.

    Raises:
        InputError: if a program cannot load its model.
    """
    with ExitStack() as stack:
        # One after the other, so that none loads while another is measured.
        peers = {key: stack.enter_context(running(command)) for key, command in commands.items()}
        latencies: dict[Any, list[list[float]]] = {key: [] for key in peers}
        rates: dict[Any, list[float]] = {key: [] for key in peers}
        for turn in tqdm(range(repeats), desc="Measuring", unit="turn", leave=False):
            for key, peer in peers.items():
                latencies[key].append(peer.ask("single"))
                if turn % TURNS_A_BATCH == 0:
                    rates[key] += peer.ask("batch")
        return {
            key: {
                "load_seconds": peer.loaded,
                "latency_ms": _percentiles(np.concatenate(latencies[key])),
                "images_per_second": round(statistics.median(rates[key]), 2),
                "peak_memory": peer.ask("memory"),
                "turns_ms": [1000 * statistics.median(turn) for turn in latencies[key]],
                "turns_images_per_second": rates[key],
            }
            for key, peer in peers.items()
        }


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


@contextmanager
def running(command: list[str]) -> Iterator["Peer"]:
    """Runs a program that answers requests with `answer`, until the end of the block.

    Raises:
        InputError: if the program cannot load what it is to measure.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    with process:
        try:
            yield Peer(process)
        finally:
            process.kill()


class Peer:
    """A process that has loaded what it measures and waits for its turn."""

    def __init__(self, process: subprocess.Popen):
        self.process = process
        self.loaded = self._answer()

    def ask(self, request: str) -> Any:
        """Returns what the process answers to a request.

        Raises:
            InputError: if the process has ended.
        """
        assert self.process.stdin
        print(request, file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise InputError(f"A model ended its process with code {self.process.wait()}.")
        answer = json.loads(line)
        if "error" in answer:
            raise InputError(answer["error"])
        return answer["value"]


def serve(load: Callable[[], tuple[Callable[[np.ndarray], Any], int]], batch: int) -> None:
    """The other side of `take_turns`: loads a model and answers until the input ends.

    Args:
        load: returns a function of prepared images `[count, size, size, 3]`, and the size.
        batch: images of the throughput measure.
    """

    def measures():
        start = time.perf_counter()
        run, size = load()
        pixels = np.random.default_rng(0).integers(0, 256, (batch, size, size, 3), np.uint8)
        run(pixels[:1])
        load_seconds = round(time.perf_counter() - start, 3)
        run(pixels)  # whatever is set up for a first batch

        def seconds(images):
            start = time.perf_counter()
            run(images)
            return time.perf_counter() - start

        def single():
            run(pixels[:1])
            return [seconds(pixels[:1]) for _ in range(IMAGES_A_TURN)]

        return load_seconds, {
            "single": single,
            "batch": lambda: [batch / seconds(pixels)],
            "memory": peak_memory,
        }

    answer(measures)


def answer(load: Callable[[], tuple[Any, Mapping[str, Callable[[], Any]]]]) -> None:
    """The other side of `running`: loads, and answers requests until the input ends.

    Args:
        load: returns what to answer when it is done, and what measures each request.
    """
    # Libraries print to standard output too; the answers must stay alone.
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def say(**fields):
        print(json.dumps(fields), file=answers, flush=True)

    try:
        loaded, measures = load()
    except Exception as error:  # told to the one who asked, whatever it is
        say(error=str(error) if isinstance(error, InputError) else f"{reason(error)}.")
        return
    say(value=loaded)
    for request in sys.stdin:
        say(value=measures[request.strip()]())


def peak_memory() -> int | None:
    """Returns the most memory that this process has had, in bytes, if the system tells it."""
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
    # TensorFlow reads them when it starts; LiteRT is told by the predictor.
    os.environ["TF_NUM_INTRAOP_THREADS"] = os.environ["TF_NUM_INTEROP_THREADS"] = str(threads)

    def load():
        from keras_efficientnet.deploy.predictor import Predictor

        predictor = Predictor(path, threads)
        return predictor.scores, predictor.description.image_size

    serve(load, batch)


if __name__ == "__main__":
    model_path, thread_count, batch_size = sys.argv[1:]
    _serve_file(model_path, int(thread_count), int(batch_size))
