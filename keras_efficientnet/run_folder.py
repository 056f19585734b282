"""The folder of a run that is under way: locked, resumable, and gone when the run is finished."""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock, Timeout

from keras_efficientnet.errors import InputError
from keras_efficientnet.files import cannot_write
from keras_efficientnet.report.records import RunReport, RunSettings, flatten, read_report
from keras_efficientnet.training import run_checkpoints

IfExists = Literal["fail", "overwrite", "resume"]
# Windows does not; elsewhere nobody can take the lock before the folder is gone.
_REMOVES_OPEN_FILES = os.name != "nt"
IF_EXISTS: tuple[IfExists, ...] = ("fail", "overwrite", "resume")


@dataclass(frozen=True)
class RunFolder:
    """What a run finds when it starts.

    Attributes:
        path: folder for checkpoints and everything else that is not finished.
        overwrite: whether the output, if there is one by the end, is to be replaced.
        finished: report of the run with the same settings that left the output, if it is to be
            returned instead of training again.
    """

    path: Path
    overwrite: bool
    finished: RunReport | None


@contextlib.contextmanager
def open_run_folder(
    output: Path, settings: RunSettings, if_exists: IfExists
) -> Iterator[RunFolder]:
    """Opens `OUTPUT.partial` for one run alone; removes it at the end, unless it has checkpoints.

    Args:
        output: folder for the results.
        settings: all that decides the result.
        if_exists: see `train`.

    Raises:
        InputError: if the output exists, another run is at work, or an unfinished run is there
            that is not to be resumed or has other settings.
    """
    refuse_existing(output, if_exists)
    partial = output.with_name(output.name + ".partial")
    try:
        partial.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(partial, error) from error
    lock = FileLock(partial / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"Another run is at work in {str(partial)!r}; wait for it.") from None
    try:
        if if_exists == "overwrite":
            _empty(partial)
        yield _start(partial, output, settings, if_exists)
        run_checkpoints.remove(partial)
    finally:
        if run_checkpoints.newest_step(partial) < 0:  # nothing to resume
            _empty(partial)
            if not _REMOVES_OPEN_FILES:
                lock.release()
            # Who has taken the lock since then keeps the folder.
            shutil.rmtree(partial, ignore_errors=not _REMOVES_OPEN_FILES)
        lock.release()


def refuse_existing(output: Path, if_exists: IfExists) -> None:
    """Refuses an output that may not be touched.

    Raises:
        InputError: if there is one.
    """
    if output.exists() and if_exists == "fail":
        raise InputError(f"Output {str(output)!r} exists; pass --overwrite to replace it.")


def _start(partial: Path, output: Path, settings: RunSettings, if_exists: IfExists) -> RunFolder:
    """Compares what is there with what is asked for, and notes the settings of a new run."""
    earlier = _earlier_report(output) if if_exists == "resume" and output.exists() else None
    note, asked = partial / "run.json", _plain(settings)
    if run_checkpoints.newest_step(partial) >= 0:
        if if_exists == "fail":
            raise InputError(
                f"An unfinished run is in {str(partial)!r}; pass --resume to continue it or "
                "--overwrite to start again."
            )
        _check_same(json.loads(note.read_text(encoding="utf-8")), asked)
    elif earlier:
        _check_same(_plain(earlier.settings), asked)
        return RunFolder(partial, False, earlier)
    else:
        note.write_text(json.dumps(asked, indent=1), encoding="utf-8")
    return RunFolder(partial, if_exists == "overwrite" or earlier is not None, None)


def _earlier_report(output: Path) -> RunReport:
    """Reads the report of the run that left an output.

    Raises:
        InputError: if something else is there.
    """
    try:
        report = read_report(output / "report.json")
    except (OSError, InputError):
        raise InputError(
            f"Output {str(output)!r} exists and no run of this version wrote it; pass another "
            "--output."
        ) from None
    # The folder may have been moved since.
    return dataclasses.replace(
        report, export=dataclasses.replace(report.export, directory=str(output))
    )


def _empty(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.is_dir():
            shutil.rmtree(entry)
        elif entry.name != "lock":
            entry.unlink()


def _plain(settings: RunSettings) -> dict[str, Any]:
    """Returns settings as JSON gives them back."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))


def _check_same(before: dict[str, Any], now: dict[str, Any]) -> None:
    old, new = flatten(before), flatten(now)
    same_images = new.get("listing") and old.get("listing") == new["listing"]
    for name in {**old, **new}:
        if name == "data" and same_images:
            continue  # another spelling of the path, or moved
        if old.get(name) != new.get(name):
            raise InputError(
                f"The run in this folder has {name}={old.get(name)!r} and not "
                f"{new.get(name)!r}; resume it with the options that it was started with, or start "
                "again with --overwrite."
            )
