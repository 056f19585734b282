"""Counts what becomes of damaged .tflite files: answers, sentences, and ends of the process.

    python tests/campaigns/litert.py --count 1000

Each file is the golden model with one to three changed bits, opened and run in a child of its own
that may have six gigabytes: LiteRT may end a process, or ask for any amount of memory, which Python
cannot prevent. Linux only.
"""

import argparse
import json
import os
import random
import resource
import signal
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np

import keras_efficientnet as ke

GOLDEN = Path(__file__).parents[1] / "golden" / "model.tflite"
SECONDS = 20
MEMORY = 6 * 2**30
OUTCOMES = ("an answer", "a sentence", "another exception")


def outcome(path: Path) -> int:
    """Opens a file and runs it on an image; returns the index of what came of it."""
    try:
        ke.Predictor(path, threads=1, trust=True).classify(np.zeros((32, 32, 3), np.uint8))
    except ke.InputError:
        return 1
    except Exception:
        return 2
    return 0


def in_child(path: Path) -> str:
    """Does the same in a child, and says what came of it."""
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)
        signal.alarm(SECONDS)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        os._exit(outcome(path))
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        return OUTCOMES[os.WEXITSTATUS(status)]
    return signal.Signals(os.WTERMSIG(status)).name


def main() -> None:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    content, rng = GOLDEN.read_bytes(), random.Random(options.seed)
    import ai_edge_litert.interpreter  # noqa: F401  before the forks

    counts = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        for _ in range(options.count):
            changed = bytearray(content)
            for _ in range(rng.randint(1, 3)):
                changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
            path.write_bytes(changed)
            counts[in_child(path)] += 1
    print(json.dumps(dict(counts.most_common())))


if __name__ == "__main__":
    main()
