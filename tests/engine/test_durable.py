"""What is written is there whole, or as it was, whatever happens in between."""

from __future__ import annotations

import logging
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from videogn.engine.durable import (
    append_line,
    remove_leftovers,
    replacing,
    require_writable,
    sync_file,
)
from videogn.engine.progress import log_to_file, log_to_terminal


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


def test_a_device_without_room_is_named_too(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space") as caught:
        append_line(path, "1")
    assert caught.value.filename == str(path)


def test_a_folder_is_made_and_probed_before_it_is_needed(tmp_path: Path) -> None:
    require_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    with disk_of(0), pytest.raises(OSError, match="too large"):
        require_writable(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        require_writable(tmp_path / "file")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "file"]


def test_flushing_a_file_that_is_not_there_does_nothing(tmp_path: Path) -> None:
    sync_file(tmp_path / "a")
    (tmp_path / "a").touch()
    sync_file(tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == b""


def test_a_log_on_a_full_disk_loses_lines_says_so_and_ends_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, logger = tmp_path / "log.txt", logging.getLogger("videogn.some")
    with caught_logs(), log_to_file(path):
        logger.info("1" * 500)
        with disk_of(1000):
            logger.info("2" * 600)
            logger.info("3" * 600)
            logger.info("4")
        logger.info("5")
    lines = path.read_text().splitlines()
    assert [line.split()[3][0] for line in lines] == ["1", "t", "4", "5"]
    assert f"WARNING the log lacks lines: {path}: No space left" in lines[1]
    output = capsys.readouterr().out
    assert output.count("the log lacks lines") == 1
    assert "2" * 600 in output


def test_a_closed_terminal_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, _: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    with caught_logs():
        monkeypatch.setattr(sys, "stdout", Closed())
        logging.getLogger("videogn.some").info("a line")


@contextmanager
def caught_logs() -> Iterator[None]:
    """The package logs to the terminal as in a run, and no longer afterwards."""
    logger = logging.getLogger("videogn")
    before = list(logger.handlers), logger.level
    log_to_terminal()
    try:
        yield
    finally:
        logger.handlers[:], logger.level = before[0], before[1]
