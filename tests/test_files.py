import ctypes
import errno
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keras_efficientnet import InputError, RunError
from keras_efficientnet.files import atomic_write, size_in_bytes


def test_a_file_appears_at_the_end(tmp_path):
    target = tmp_path / "deep" / "result.txt"
    with atomic_write(target) as path:
        path.write_text("half")
        assert not target.exists()
        path.write_text("whole")
    assert target.read_text() == "whole"
    assert [entry.name for entry in target.parent.iterdir()] == ["result.txt"]


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError), atomic_write(tmp_path / "result") as path:
        path.mkdir()
        (path / "part").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_an_existing_result_is_kept_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "result"
    target.mkdir()
    (target / "old").write_text("old")
    with pytest.raises(InputError, match="--overwrite"), atomic_write(target):
        pass
    with pytest.raises(RuntimeError), atomic_write(target, overwrite=True) as path:
        path.mkdir()
        raise RuntimeError
    assert (target / "old").read_text() == "old"
    with atomic_write(target, overwrite=True) as path:
        path.mkdir()
        (path / "new").write_text("new!")
    assert [entry.name for entry in target.iterdir()] == ["new"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["result"]
    assert size_in_bytes(target) == size_in_bytes(target / "new") == 4


def test_a_place_that_cannot_be_written_is_named_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="Cannot write to"), atomic_write(tmp_path / "file" / "x"):
        pass


def test_a_full_disk_is_no_bad_input(tmp_path, monkeypatch):
    def mkdir(path, **options):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(Path, "mkdir", mkdir)
    with pytest.raises(RunError, match=r"Cannot write to .+: No space left"):
        atomic_write(tmp_path / "folder" / "x").__enter__()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux exchanges two names")
def test_a_folder_is_never_missing_while_it_is_replaced(tmp_path):
    target = tmp_path / "result"
    target.mkdir()
    (target / "number").write_text("0")
    seen, stop = set(), threading.Event()

    def look():
        while not stop.is_set():
            seen.add((target / "number").read_text())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(look)
        for number in range(1, 200):
            with atomic_write(target, overwrite=True) as path:
                path.mkdir()
                (path / "number").write_text(str(number))
        stop.set()
        looking.result()
    assert len(seen) > 1
    assert [entry.name for entry in tmp_path.iterdir()] == ["result"]


def without_renameat2(name):
    """The C library of another system than Linux."""
    return object()


def test_without_an_exchange_a_folder_is_replaced_in_two_steps(tmp_path, monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", without_renameat2)
    test_an_existing_result_is_kept_until_the_new_one_is_whole(tmp_path)


@pytest.mark.parametrize("linux", [True, False])
def test_of_two_writers_that_may_not_overwrite_the_first_wins(tmp_path, monkeypatch, linux):
    if not linux:
        monkeypatch.setattr(ctypes, "CDLL", without_renameat2)
    for make in (Path.mkdir, Path.touch):
        target = tmp_path / make.__name__
        with (
            pytest.raises(InputError, match="has appeared meanwhile"),
            atomic_write(target) as one,
        ):
            make(one)
            with atomic_write(target) as other:
                other.mkdir()
                (other / "first").touch()
        assert (target / "first").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mkdir", "touch"]
