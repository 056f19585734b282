"""Outputs that appear complete or not at all."""

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_efficientnet.errors import InputError, RunError

# No space, no quota, or more than a process may write to one file.
DISK_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# Of Linux' renameat2: relative to the working directory; fail if the new name exists; swap names.
_AT_FDCWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2


def keras_home() -> str:
    """Returns the folder that Keras keeps its configuration and cache in; it may not exist."""
    return os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike, overwrite: bool = False, staging: Path | None = None
) -> Iterator[Path]:
    """Yields a temporary path to write a file or folder to, and renames it to `path` at the end.

    Any failure before the end leaves `path` as it was.

    Args:
        path: of the result.
        overwrite: replace an existing file or folder.
        staging: folder to write in, on the same file system; emptied first. If None, a new one
            beside `path`, which stays behind if the process is killed.

    Raises:
        InputError: at once, if `path` exists and `overwrite` is False, or its folder cannot be
            written to; at the end, if `path` has appeared meanwhile and `overwrite` is False.
        RunError: if there is no space left for the folder.
    """
    path = Path(path).absolute()
    if path.exists() and not overwrite:
        raise InputError(f"Output {str(path)!r} exists; pass --overwrite to replace it.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, because a rename is atomic only within one file system.
        if staging is None:
            staging = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        else:
            shutil.rmtree(staging, ignore_errors=True)
            staging.mkdir()
    except OSError as error:
        raise cannot_write(path.parent, error) from error
    try:
        yield staging / path.name
        _put_in_place(staging / path.name, path, overwrite)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(new: Path, path: Path, overwrite: bool) -> None:
    """Renames, so that at every moment the old or the new result is at `path`, complete."""
    if not overwrite:
        if _rename_by(_NO_REPLACE, new, path):
            return
        if path.exists():  # another process was faster
            raise InputError(f"Output {str(path)!r} has appeared meanwhile, and is kept.")
    if not path.is_dir():
        os.replace(new, path)
    elif not _rename_by(_EXCHANGE, new, path):  # `os.replace` refuses a folder with content
        path.rename(new.with_name("replaced"))
        os.replace(new, path)


def _rename_by(flag: int, new: Path, path: Path) -> bool:
    """Calls Linux' renameat2; returns whether it exists and has succeeded."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), flag) == 0


def cannot_write(folder: Path, error: OSError) -> Exception:
    """Returns what to raise where a folder cannot be made or written to."""
    kind = RunError if error.errno in DISK_FULL else InputError
    return kind(f"Cannot write to {str(folder)!r}: {error.strerror}.")


def size_in_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def is_text(name: str) -> bool:
    """Returns whether a file name can be encoded in UTF-8, as names in other encodings cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
