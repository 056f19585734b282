"""Checkpoints that survive a kill at any moment.

A checkpoint is one safetensors file: every variable of the run as a tensor, and the rest
of its state as JSON in the header, with a digest of both. It is written under another name and
renamed, so that a file under its own name is complete. Where a disk lost a part of it all the
same, the digest does not match, and the checkpoint before it is read.
"""

import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from keras_efficientnet.errors import InputError, RunError, reason

KEPT = 2
_NAME = re.compile(r"step-\d+\.safetensors")


def save(folder: Path, step: int, tensors: Mapping[str, np.ndarray], state: dict[str, Any]) -> Path:
    """Writes a checkpoint and removes all but the newest.

    Args:
        folder: where checkpoints are kept; made if it is not there.
        step: batches that the run has trained on; the checkpoint with the most is the newest.
        tensors: arrays by name.
        state: all else that a run goes on from, as JSON takes it.

    Returns:
        The checkpoint's path.

    Raises:
        RunError: if the disk is full or cannot be written to.
    """
    arrays = {name: np.asarray(value, order="C") for name, value in tensors.items()}
    about = json.dumps(state)
    path = folder / f"step-{step:09d}.safetensors"
    aside = path.with_suffix(".writing")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(arrays, aside, {"state": about, "digest": _digest(arrays, about)})
        with aside.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(aside, path)
    except (OSError, SafetensorError) as error:
        raise RunError(
            f"Cannot write checkpoint {str(path)!r}: {reason(error)}; the one before it is good."
        ) from error
    for old in _newest_first(folder)[KEPT:]:
        old.unlink(missing_ok=True)
    return path


def load_newest(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
    """Returns the tensors and the state of the newest undamaged checkpoint; None without one."""
    for path in _newest_first(folder):
        try:
            with safe_open(path, "numpy") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if about["digest"] == _digest(tensors, about["state"]):
                return tensors, json.loads(about["state"])
        except (OSError, SafetensorError, KeyError, ValueError):
            continue  # damaged: the one before it is good
    return None


def newest_step(folder: Path) -> int:
    """Returns the step of the newest checkpoint, without reading it; -1 where there is none."""
    newest = next(iter(_newest_first(folder)), None)
    return int(newest.stem.removeprefix("step-")) if newest else -1


def remove(folder: Path) -> None:
    """Removes all checkpoints."""
    for path in _newest_first(folder):
        path.unlink(missing_ok=True)


def variables_of(**groups: list) -> dict[str, Any]:
    """Names the variables of a run by the order in which they were created.

    Keras' own names of seed generators and optimizers contain a count over the process, so
    that they differ between a run and its continuation.
    """
    return {
        f"{group}/{index:05d}": variable
        for group, variables in groups.items()
        for index, variable in enumerate(variables)
    }


def restore(variables: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> None:
    """Fills variables from a checkpoint's tensors of the same names.

    Raises:
        InputError: if names or shapes differ.
    """
    wanted = {name: tuple(variable.shape) for name, variable in variables.items()}
    found = {name: value.shape for name, value in tensors.items()}
    if different := sorted({*wanted.items()} ^ {*found.items()}):
        raise InputError(
            f"The checkpoint does not fit this run: {different[0][0]!r} differs; resume it with "
            "the options and the package versions it was started with."
        )
    for name, variable in variables.items():
        variable.assign(tensors[name])


def _newest_first(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def _digest(arrays: Mapping[str, np.ndarray], about: str) -> str:
    digest = hashlib.blake2b(about.encode(), digest_size=16)
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
