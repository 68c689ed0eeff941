"""A folder has one owner: the others are told, and one that has died is in nobody's way."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

from videogn.engine import lock
from videogn.engine.lock import locked
from videogn.errors import FolderInUseError

fork = multiprocessing.get_context("fork")


def hold(folder: Path, has_it: Event, orphan: bool) -> None:
    with locked(folder, patience=0):
        if orphan and os.fork() == 0:  # as a loader worker, which outlives its parent
            time.sleep(60)
        has_it.set()
        time.sleep(60)


@pytest.fixture
def owner(tmp_path: Path) -> Iterator[Callable[..., BaseProcess]]:
    """Returns a function that starts a process with the lock of the folder."""
    groups: list[int] = []

    def start(*, orphan: bool = False) -> BaseProcess:
        has_it = fork.Event()
        process = fork.Process(target=own_group, args=(hold, tmp_path, has_it, orphan))
        process.start()
        assert process.pid is not None
        groups.append(process.pid)
        assert has_it.wait(20)
        return process

    yield start
    for group in groups:
        with_children_gone(group)


def own_group(target: Callable[..., None], *args: Any) -> None:
    os.setpgid(0, 0)
    target(*args)


def with_children_gone(group: int) -> None:
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def test_a_lock_leaves_nothing_behind_and_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path / "new" / "run"):
            assert [p.name for p in (tmp_path / "new" / "run").iterdir()] == [".lock"]
        assert not list((tmp_path / "new" / "run").iterdir())


def test_a_second_process_is_refused_with_the_folder_and_the_owner(
    tmp_path: Path, owner: Callable[..., BaseProcess]
) -> None:
    pid = owner().pid
    with (
        pytest.raises(FolderInUseError, match=rf"{tmp_path.name} is in use .*\(pid {pid}\); wait"),
        locked(tmp_path, patience=0.2),
    ):
        pass
    assert FolderInUseError.exit_code == 2
    assert (tmp_path / ".lock").read_text() == str(pid)  # the owner's is not touched


@pytest.mark.parametrize("orphan", [False, True])
def test_a_killed_owner_is_in_nobodys_way_even_when_its_child_lives(
    orphan: bool, tmp_path: Path, owner: Callable[..., BaseProcess]
) -> None:
    process = owner(orphan=orphan)
    process.kill()
    assert process.pid is not None
    os.waitpid(process.pid, 0)  # join() would wait for the child too
    with locked(tmp_path, patience=0):
        assert (tmp_path / ".lock").read_text() == str(os.getpid())


def test_an_owner_that_is_leaving_is_waited_for(
    tmp_path: Path, owner: Callable[..., BaseProcess], caplog: pytest.LogCaptureFixture
) -> None:
    process = owner()
    threading.Timer(0.4, process.kill).start()
    begin = time.monotonic()
    with caplog.at_level(logging.INFO, logger="videogn"), locked(tmp_path, patience=20):
        assert 0.3 < time.monotonic() - begin < 10
    assert f"waiting 20 s for it (pid {process.pid})" in caplog.text
    assert caplog.text.count("waiting") == 1


def test_a_file_that_its_owner_removed_after_it_was_opened_here_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, path = lock._try, tmp_path / lock.NAME
    tries: list[int] = []

    def leave_first(descriptor: int, path: Path) -> bool:
        tries.append(descriptor)
        if len(tries) == 1:
            path.unlink()  # as an owner does that leaves at this moment
        return plain(descriptor, path)

    monkeypatch.setattr(lock, "_try", leave_first)
    with locked(tmp_path, patience=0):
        assert path.read_text() == str(os.getpid())
    assert len(tries) == 2


def test_a_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / "run"):
        pass
