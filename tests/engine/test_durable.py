"""What is written is there whole, or as it was, whatever happens in between."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from videogn.engine.durable import append_line, remove_leftovers, replacing, sync_file


@contextmanager
def disk_of(num_bytes: int) -> Iterator[None]:
    """Files cannot grow beyond `num_bytes`, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_is_replaced_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with replacing(path) as file:
        file.write(b"new")
        assert path.read_bytes() == b"old"
        assert [p.name for p in tmp_path.iterdir() if p != path] == [f"a.{os.getpid()}.tmp"]
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def write(path: Path, data: bytes, *, then_fail: bool = False) -> None:
    with replacing(path) as file:
        file.write(data)
        if then_fail:
            raise ZeroDivisionError


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    with pytest.raises(ZeroDivisionError):
        write(path, b"new", then_fail=True)
    with disk_of(50_000), pytest.raises(OSError, match="too large") as caught:
        write(path, bytes(60_000))
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_is_gone_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write(tmp_path / "gone" / "a", b"new")
    assert caught.value.filename == str(tmp_path / "gone" / "a")


def test_a_killed_write_leaves_the_old_file_and_what_can_be_swept_up(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"old")
    program = (
        "import os, pathlib, sys\n"
        "from videogn.engine.durable import replacing\n"
        "with replacing(pathlib.Path(sys.argv[1])) as file:\n"
        "    file.write(b'ne')\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], check=False)
    assert done.returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == b"old"


def test_lines_are_appended_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    append_line(path, "1" * 500)
    with disk_of(1000):
        append_line(path, "2" * 400)
        with pytest.raises(OSError, match=r"No space") as caught:
            append_line(path, "3" * 400)
        assert caught.value.filename == str(path)
        append_line(path, "4")
    append_line(path, "5")
    assert path.read_text().splitlines() == ["1" * 500, "2" * 400, "4", "5"]


def test_flushing_a_file_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    sync_file(tmp_path / "a")
    (tmp_path / "a").touch()
    sync_file(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b""
