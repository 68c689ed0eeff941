"""Long work over many files: parallel, resumable, and stopped by no file.

`run_all` hands items to processes (`data_prep.crew`) and appends every result to a journal
(`data_prep.journal`), so that the same command, killed at any moment, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import IO

from data_prep.arguments import shard
from data_prep.crew import BadItemError, Crew, Result, StopWorkError, Work, Worker
from data_prep.journal import Record, Records, Stamp, appending
from data_prep.progress import Progress
from videogn.cli.arguments import count
from videogn.engine.signals import noted_signals
from videogn.errors import DataError

__all__ = [
    "BadItemError",
    "StopWorkError",
    "add_work_arguments",
    "available_cores",
    "file_stamp",
    "run_all",
    "to_do",
]

_SYNC_EVERY = 10.0  # seconds; a kill loses nothing even so, only a power cut does
_STAT_BATCH = 4096


def run_all(
    items: Sequence[str],
    work: Work,
    *,
    journal: Path,
    jobs: int,
    timeout: float,
    unit: str = "file",
    stamp: Callable[[str], Stamp | None] | None = None,
    redo: Callable[[Record], bool] | None = None,
    memory: int | None = None,
) -> Records:
    """Does `work` on every item that the journal or one of its shards does not hold yet.

    Args:
        items: names, mostly relative paths; repeated ones are done once.
        work: returns what it found as plain JSON values (`bytes`, if it is there, makes the rate
            shown), or raises BadItemError. It is pickled: a function of a module or a
            `functools.partial` of one.
        journal: one JSON line an item is appended to it; see `data_prep.journal.shard_journal`.
        jobs: processes.
        timeout: seconds an item may take.
        unit: an item, in one word.
        stamp: tells whether an item's file has changed since; `file_stamp` by default.
        redo: whether an item on record is to be done again though its file has not changed.
        memory: bytes a process may add to what it has after its imports.

    Returns all records, those from before too. Raises DataError when another process writes the
    journal, workers die one after the other or the work raises StopWorkError, KeyboardInterrupt
    after SIGINT, SIGTERM or SIGUSR1: what was done is then on record.
    """
    stamp = stamp or file_stamp
    items = list(dict.fromkeys(items))
    with appending(journal) as lines, noted_signals() as stopped:
        earlier = Records(journal)
        todo = to_do(items, earlier, stamp=stamp, redo=redo)
        bad = sum(map(earlier.is_bad, set(items).difference(todo)))
        what, before = journal.name.partition(".")[0], len(items) - len(todo)
        progress = Progress(what, total=len(items), before=before, unit=unit, bad=bad)
        crew = Crew(todo, functools.partial(Worker, work, stamp, memory), jobs, timeout)
        with closing(crew.results(stopped)) as results:
            _write_down(results, lines, progress)
        if stopped():
            raise KeyboardInterrupt
    return Records(journal)


def to_do(
    items: Sequence[str],
    records: Mapping[str, Record],
    *,
    stamp: Callable[[str], Stamp | None] | None = None,
    redo: Callable[[Record], bool] | None = None,
) -> list[str]:
    """The items without a record, with a changed file, or with a record that `redo` refuses."""
    stamp = stamp or file_stamp
    known = [item for item in items if item in records]
    again: set[str] = set()
    with ThreadPoolExecutor(16) as threads:  # a stat on a network file system is all waiting
        for first in range(0, len(known), _STAT_BATCH):
            batch = known[first : first + _STAT_BATCH]
            for item, now in zip(batch, threads.map(stamp, batch), strict=True):
                record = records[item]
                if record.stamp != now or (redo is not None and redo(record)):
                    again.add(item)
    return [item for item in items if item in again or item not in records]


def file_stamp(path: str, *, root: Path | None = None) -> Stamp | None:
    """The stamp of the file at `path`, relative to `root`; None if it cannot be found.

    That of `shard.tar::member.mp4` is the tar's.
    """
    with suppress(OSError, ValueError):  # ValueError: a NUL in the name
        found = Path(root or "", path.partition("::")[0]).stat()
        return Stamp(found.st_size, found.st_mtime_ns)
    return None


def add_work_arguments(
    parser: argparse.ArgumentParser,
    *,
    timeout: int,
    retry_help: str = "try those again that are recorded as bad",
) -> None:
    """Declares the options that every command with long work has."""
    add = parser.add_argument
    cores = available_cores()
    add("--jobs", metavar="N", type=count, default=cores, help=f"processes ({cores}, the cores)")
    add(
        "--timeout",
        metavar="SECONDS",
        type=count,
        default=timeout,
        help=f"for one file; then it is recorded as bad ({timeout})",
    )
    add(
        "--memory",
        metavar="MB",
        type=count,
        default=4096,
        help="that one file may take; then it is recorded as bad (4096; Linux)",
    )
    add(
        "--shard",
        metavar="I/N",
        type=shard,
        default=(1, 1),
        help="do the I-th of N parts of the work, for an array of machines",
    )
    add("--retry-bad", action="store_true", help=retry_help)
    add("--dry-run", action="store_true", help="say what would be done, and write nothing")


def available_cores() -> int:
    """The cores that this process may use: fewer than the machine's under Slurm or taskset."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_down(results: Iterator[Result | None], lines: IO[bytes], progress: Progress) -> None:
    """Appends each result as it comes."""
    synced = time.monotonic()
    try:
        for result in results:
            if result is not None and result.stop:
                raise DataError(result.stop)
            if result is not None:
                lines.write(result.line)  # unbuffered: from here on a kill does not lose it
                progress.add(ok=result.ok, size=result.size)
            progress.tick()
            if time.monotonic() - synced > _SYNC_EVERY:
                os.fsync(lines.fileno())
                synced = time.monotonic()
    finally:
        progress.close()
