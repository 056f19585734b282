"""Coverage-guided fuzzing of everything that reads what strangers made.

    python tests/fuzz/campaign.py --seconds 240 --json fuzz.json
    python tests/fuzz/campaign.py --target image --seconds 60
    python tests/fuzz/campaign.py --run image FILE

Each target of `targets.py` gets its share of the time in a process of its own, from the seeds
beside this file. An input that ends in anything but a result or a sentence, that takes more
than half a minute or more than two gigabytes, is kept and ends the campaign. `--run` repeats one.
"""

import argparse
import importlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from records import record

SEEDS = Path(__file__).parent / "seeds"
TARGETS = tuple(sorted(path.name for path in SEEDS.iterdir()))
INPUT_SECONDS = 30
MEMORY_MB = 2048


def fuzz(target: str, seconds: int, found: Path, seed: int = 1, memory_mb: int = MEMORY_MB) -> dict:
    """Fuzzes one target in a fresh process, and returns its figures.

    The memory of the process begins with that of its parent, as Linux counts it, which must be
    small for `memory_mb` to mean anything; 0 is no limit.

    Raises:
        RuntimeError: if an input is found; it is in the folder `found`.
    """
    with tempfile.TemporaryDirectory() as corpus:
        command = [sys.executable, __file__, "--inside", target, corpus, str(SEEDS / target)]
        command += [
            f"-max_total_time={seconds}",
            f"-timeout={INPUT_SECONDS}",
            f"-rss_limit_mb={memory_mb}",
            f"-artifact_prefix={found}/{target}-",
            f"-seed={seed}",
            "-max_len=20000",
            "-print_final_stats=1",
        ]
        started = time.monotonic()
        child = subprocess.run(command, capture_output=True, text=True, errors="replace")
    done = re.search(r"stat::number_of_executed_units:\s*(\d+)", child.stderr)
    peak = re.search(r"stat::peak_rss_mb:\s*(\d+)", child.stderr)
    if child.returncode or not done or not peak:
        raise RuntimeError(f"{target}: {child.stdout[-2000:]}\n{child.stderr[-6000:]}")
    return {
        "target": target,
        "inputs": int(done[1]),
        "peak_mb": int(peak[1]),
        "seconds": round(time.monotonic() - started),
    }


def inside(target: str, arguments: list[str]) -> None:
    """Runs the fuzzer's loop in this process."""
    import atheris

    with atheris.instrument_imports(include=["keras_efficientnet", "PIL", "csv", "zipfile"]):
        from fuzz import targets

        # What imports take is not an input's time.
        importlib.import_module("sklearn.model_selection")
        if target == "command_line":
            from keras_efficientnet import deploy, plots, report, study, training  # noqa: F401

            importlib.import_module("tensorflow")
            for module in (deploy, plots, study, training):
                for name in module.__all__:
                    getattr(module, name)
    atheris.Setup([__file__, *arguments], lambda data: targets.TARGETS[target](data) and None)
    atheris.Fuzz()


def main() -> None:
    """Fuzzes the targets in turn."""
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", choices=TARGETS, action="append", help="repeatable; all if not")
    parser.add_argument("--seconds", type=int, default=240, help="in all; default: %(default)s")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--found", type=Path, default=Path(), help="folder for what is found")
    parser.add_argument("--json", type=Path, help="file to add a line to for each target")
    parser.add_argument("--run", nargs=2, metavar=("TARGET", "FILE"), help="one input, once")
    options = parser.parse_args()
    if options.run:
        from fuzz import targets

        target, file = options.run
        print(targets.TARGETS[target](Path(file).read_bytes()))
        return
    names = options.target or TARGETS
    for name in names:
        figures = fuzz(name, options.seconds // len(names), options.found, options.seed)
        record(figures, options.json)


if __name__ == "__main__":
    main()
