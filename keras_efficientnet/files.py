"""Outputs that appear whole or not at all."""

import contextlib
import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from keras_efficientnet.errors import InputError

# Of Linux' renameat2: paths count from the working folder; what is at the new name is kept, or
# gets the old one.
_AT_FDCWD, _NO_REPLACE, _EXCHANGE = -100, 1, 2


@contextlib.contextmanager
def atomic_write(
    path: str | os.PathLike, overwrite: bool = False, staging: Path | None = None
) -> Iterator[Path]:
    """Gives a path to write a file or folder at, and moves it into place at the end.

    Whatever goes wrong before the end leaves `path` as it was.

    Args:
        path: where the result shall be.
        overwrite: replace what is there.
        staging: folder to write in meanwhile, on the same file system; emptied first. One
            beside `path` if None, which stays behind if the process is killed.

    Raises:
        InputError: at once, if something is there and may not be replaced, or nothing
            can be written there; at the end, if something has appeared there meanwhile.
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
        raise InputError(f"Cannot write to {str(path.parent)!r}: {error.strerror}.") from error
    try:
        yield staging / path.name
        _put_in_place(staging / path.name, path, overwrite)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _put_in_place(new: Path, path: Path, overwrite: bool) -> None:
    """Renames, so that at every moment the old or the new is at `path`, and whole."""
    if not overwrite:
        if _renamed(new, path, _NO_REPLACE):
            return
        if path.exists():  # another process was quicker
            raise InputError(f"Output {str(path)!r} has appeared meanwhile, and is kept.")
    if not path.is_dir():
        os.replace(new, path)
    elif not _renamed(new, path, _EXCHANGE):  # a folder with content cannot be replaced
        path.rename(new.with_name("replaced"))
        os.replace(new, path)


def _renamed(new: Path, path: Path, how: int) -> bool:
    """Renames in one step, in a way that only Linux has; says whether that was possible."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    return rename(_AT_FDCWD, os.fsencode(new), _AT_FDCWD, os.fsencode(path), how) == 0


def size_in_bytes(path: Path) -> int:
    """Returns the size of a file, or of all files in a folder."""
    if path.is_dir():
        return sum(entry.stat().st_size for entry in path.rglob("*") if entry.is_file())
    return path.stat().st_size


def is_text(name: str) -> bool:
    """Whether a name can be written in UTF-8, which file names of other codings cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
