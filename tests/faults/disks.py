"""Rows R4, R5 and R12: disks that are full, read-only or gone, and clocks that jump."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tests.faults.jobs import Sabotage, start
from tests.faults.plan import Injection
from tests.faults.references import References, expect_same, files, logged, require_good
from tests.faults.sabotage import slow_items
from tests.faults.waiting import Lost, Waiting, ended, expect, until

R4, R5 = "R4 disk full while saving", "R5 folder read-only or gone"
R12 = "R12 clock jumps, disk full under records"
_CAPABILITY_VERSION = 0x20080522  # of capset(2): three words for 64 capabilities, twice


def injections(references: References) -> Iterator[Injection]:
    """Every fault of the rows."""
    for kilobytes in (0, 100, 1000):  # a checkpoint takes 1.3 MB
        play = _full(references, _limit_files(1000 * kilobytes))
        yield Injection(R4, f"{kilobytes} kB left", play, is_quick=kilobytes == 100)
    yield Injection(R4, "found at the flush", _full(references, _full_at_flush))
    yield Injection(R5, "a file in the place of the folder", _not_a_folder(references), 1, True)
    yield Injection(R5, "read-only for this user", _read_only(references))
    yield Injection(R5, "removed while it trains", _removed(references))
    for name in ("log.txt", "metrics.jsonl"):
        play = _full_record(references, name)
        yield Injection(R12, f"{name} on a full disk", play, is_quick=name == "log.txt")
    for hours in (-1000, 1000):
        yield Injection(R12, f"the clock jumps {hours} hours", _jump(references, hours))


def _limit_files(size: int) -> Sabotage:
    def spoil(_: int) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(size, 1), resource.RLIM_INFINITY))

    return spoil


def _full_at_flush(_: int) -> None:
    """As network file systems do it, which take every write and count at the end."""
    plain = os.fsync

    def fsync(descriptor: int) -> None:
        if os.fstat(descriptor).st_size > 500_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        plain(descriptor)

    os.fsync = fsync


def _full(references: References, sabotage: Sabotage) -> Callable[[Path], Waiting[None]]:
    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken()
        run = yield from references.stopped(folder)
        before = files(run / "checkpoints")
        words = references.words()
        job = start(words, folder, sabotage=sabotage)
        codes = yield from ended(job)
        if codes == [0] or "Traceback" in job.output:
            raise Lost(f"ended with {codes} though nothing could be saved: {job.output[-200:]}")
        after = files(run / "checkpoints")
        if any(after.get(name) != data for name, data in before.items()):
            raise Lost("an old checkpoint is no longer what it was")
        if after.keys() != before.keys():
            raise Lost(f"left {after.keys() - before.keys()} behind")
        yield from expect_same(start(words, folder), folder, unbroken)

    return play


def _not_a_folder(references: References) -> Callable[[Path], Waiting[None]]:
    def play(folder: Path) -> Waiting[None]:
        (folder / "run").write_text("a file")
        job = start(references.words(), folder)
        yield from expect(job, 2, says="run")
        if logged(folder / "run"):
            raise Lost("trained all the same")

    return play


def _without_privileges(_: int) -> None:
    """Makes the permissions of files count for root too."""
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    if ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError("this process keeps its privileges")


def _read_only(references: References) -> Callable[[Path], Waiting[None]]:
    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken()
        run = yield from references.stopped(folder)
        paths = [run, *run.rglob("*")]
        for path in paths:
            path.chmod(0o555 if path.is_dir() else 0o444)
        before = files(run)
        job = start(references.words(), folder, sabotage=_without_privileges)
        yield from expect(job, 2, says="run")
        if files(run) != before:
            raise Lost("changed a read-only folder")
        for path in paths:
            path.chmod(0o755 if path.is_dir() else 0o644)
        yield from expect_same(start(references.words(), folder), folder, unbroken)

    return play


def _removed(references: References) -> Callable[[Path], Waiting[None]]:
    """Nobody can go on with what is gone; it must end, and not with success."""

    def play(folder: Path) -> Waiting[None]:
        mark = folder / "mark"
        slow = slow_items("build_train_loader", 0.05, mark)
        job = start(references.words(), folder, sabotage=slow)
        yield from until(lambda: logged(folder / "run") >= 5, job, "step 5")
        shutil.rmtree(folder / "run", ignore_errors=True)
        codes = yield from ended(job)
        if "Traceback" in job.output:
            raise Lost(f"a traceback: {job.output[-200:]}")
        if codes == [0] and not (folder / "run" / "test.json").exists():
            raise Lost("ended with 0 without a result")

    return play


def _full_record(references: References, name: str) -> Callable[[Path], Waiting[None]]:
    """The record goes to a device that is always full; the result is what it would have been."""

    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken()
        run = folder / "run"
        run.mkdir()
        (run / name).symlink_to("/dev/full")
        yield from expect(start(references.words(), folder), 0)
        for result in ("test.json", "predictions.csv"):
            if (run / result).read_bytes() != (unbroken / result).read_bytes():
                raise Lost(f"another {result}")
        require_good(run, 24)

    return play


def _jump(references: References, hours: int) -> Callable[[Path], Waiting[None]]:
    def jump(_: int) -> None:
        plain, calls = time.time, 0

        def jumped(*args: Any) -> float:
            nonlocal calls
            calls += 1
            return plain(*args) + (3600 * hours if calls % 2 else 0)

        time.time = jumped

    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken()
        yield from expect_same(start(references.words(), folder, sabotage=jump), folder, unbroken)

    return play
