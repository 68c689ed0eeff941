"""Long work over many files, in processes that can be killed one by one.

`run_all` hands items to worker processes. One that takes too long is killed, one that crashes is
replaced; the item is recorded as bad with the reason, and the rest goes on. The parent appends
every result to a journal (`data_prep.journal`), so that the same command, killed at any moment,
goes on where it stopped.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import IO, Any, NamedTuple

from data_prep.arguments import count, shard
from data_prep.journal import Record, Records, Stamp, appending
from data_prep.progress import Progress
from videogn.engine.signals import noted_signals
from videogn.errors import DataError, VideognError

if sys.platform != "win32":
    import resource

Work = Callable[[str], Mapping[str, Any]]

_TICK = 0.5  # seconds between two looks at the clock and at the signals
_GRACE = 5.0  # seconds that items in hand have to end after a signal; Slurm gives 30
_START_TIMEOUT = 300.0  # seconds for a process to import its modules, on a busy file system too
_MAX_LOSSES = 20  # in a row: then it is not the files
_SYNC_EVERY = 10.0  # seconds; a kill loses nothing even so, only a power cut does
_STAT_BATCH = 4096
_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


class BadItemError(Exception):
    """Raised by the work on an item that it found bad.

    Attributes:
        kind: why, in a word or two to count by.
        reason: why, exactly.
        values: what was found all the same.
    """

    def __init__(self, kind: str, reason: str, values: Mapping[str, Any] | None = None) -> None:
        super().__init__(kind, reason, values)
        self.kind, self.reason, self.values = kind, reason, dict(values or {})


class StopWorkError(Exception):
    """Raised by the work when no item can succeed, as on a full disk; the message says why.

    The item is not recorded, and `run_all` ends with a DataError.
    """


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
        todo = to_do(items, Records(journal), stamp=stamp, redo=redo)
        what = journal.name.partition(".")[0]
        progress = Progress(what, total=len(items), before=len(items) - len(todo), unit=unit)
        crew = _Crew(todo, functools.partial(_Worker, work, stamp, memory), jobs, timeout)
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


def add_work_arguments(parser: argparse.ArgumentParser, *, timeout: int) -> None:
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
    add("--retry-bad", action="store_true", help="try those again that are recorded as bad")
    add("--dry-run", action="store_true", help="say what would be done, and write nothing")


def available_cores() -> int:
    """The cores that this process may use: fewer than the machine's under Slurm or taskset."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _write_down(results: Iterator[_Result | None], lines: IO[bytes], progress: Progress) -> None:
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


class _Result(NamedTuple):
    """A line for the journal, and what progress shows of it; or why all work must stop."""

    line: bytes
    ok: bool
    size: int
    stop: str = ""


class _Worker:
    """A process that does one item at a time."""

    def __init__(
        self, work: Work, stamp: Callable[[str], Stamp | None], memory: int | None
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy locks and open files
        self.connection, theirs = context.Pipe()
        arguments = (theirs, work, stamp, memory, os.getpid())
        self.process = context.Process(target=_serve, args=arguments, daemon=True)
        # One thread each: the processes are the parallelism. Read when numpy is imported.
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
        self.process.start()
        theirs.close()
        self.stamp = stamp
        self.item: str | None = None
        self.is_ready = False
        self.since = time.monotonic()  # of the item, or of the process while it starts

    @property
    def is_idle(self) -> bool:
        return self.is_ready and self.item is None

    def give(self, item: str) -> None:
        self.item, self.since = item, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # found dead on receiving
            self.connection.send(item)

    def receive(self) -> _Result | None:
        """The result of the item; None from a process that has started. EOFError if it died."""
        try:
            message = self.connection.recv()
        except ConnectionResetError as error:
            raise EOFError from error
        self.is_ready, self.item = True, None
        return message

    def bad(self, kind: str, error: str) -> _Result:
        """The record of the item that this process did not get through."""
        assert self.item is not None
        seconds = time.monotonic() - self.since
        found = self.stamp(self.item)
        record = Record(self.item, found, False, kind, error, seconds, time.time())
        return _Result(record.to_line(), False, 0)

    def end(self) -> str:
        """Kills the process if need be; returns how it ended, in words."""
        self.connection.close()
        self.process.kill()
        self.process.join()
        code = self.process.exitcode or 0
        self.process.close()
        if code >= 0:
            return f"exit code {code}"
        name = signal.Signals(-code).name
        return f"{name}, perhaps for want of memory" if name == "SIGKILL" else name


class _Crew:
    """The processes, and the items that wait for one."""

    def __init__(
        self, todo: Sequence[str], start: Callable[[], _Worker], jobs: int, timeout: float
    ) -> None:
        self._waiting = deque(todo)
        self._start, self._jobs, self._timeout = start, jobs, timeout
        self._workers: list[_Worker] = []
        self._losses = 0  # processes lost one after the other

    def results(self, stopped: Callable[[], bool]) -> Generator[_Result | None, None, None]:
        """Yields the result of each item as it comes, and None at least every `_TICK` seconds.

        After a signal no further item is begun, and those in hand have `_GRACE` seconds.
        """
        grace_ends = float("inf")
        try:
            while True:
                if stopped():
                    self._waiting.clear()
                    grace_ends = min(grace_ends, time.monotonic() + _GRACE)
                self._keep_busy()
                if not self._workers or time.monotonic() > grace_ends:
                    return
                ready = set(wait([worker.connection for worker in self._workers], _TICK))
                for worker in list(self._workers):
                    if worker.connection in ready:
                        yield self._receive(worker)
                    elif time.monotonic() - worker.since > self._limit(worker):
                        yield self._give_up(worker)
                yield None
        finally:
            for worker in self._workers:
                worker.end()

    def _keep_busy(self) -> None:
        """Gives every idle process an item, or ends it; starts processes for the rest."""
        for worker in [worker for worker in self._workers if worker.is_idle]:
            if self._waiting:
                worker.give(self._waiting.popleft())
            else:
                self._dismiss(worker)
        busy = sum(worker.item is not None for worker in self._workers)
        while len(self._workers) < min(self._jobs, busy + len(self._waiting)):
            self._workers.append(self._start())

    def _receive(self, worker: _Worker) -> _Result | None:
        try:
            result = worker.receive()
        except EOFError:
            how = self._dismiss(worker)
            self._count_loss(how)
            return worker.bad("crash", f"its process died of {how}") if worker.item else None
        if result is not None:
            self._losses = 0
        return result

    def _limit(self, worker: _Worker) -> float:
        """Seconds that it may take to what it is doing."""
        if worker.is_idle:
            return float("inf")
        return self._timeout if worker.is_ready else _START_TIMEOUT

    def _give_up(self, worker: _Worker) -> _Result | None:
        self._dismiss(worker)
        limit = self._limit(worker)
        self._count_loss(f"taking more than {limit:g} s")
        return worker.bad("time-out", f"took more than {limit:g} s") if worker.item else None

    def _dismiss(self, worker: _Worker) -> str:
        self._workers.remove(worker)
        return worker.end()

    def _count_loss(self, how: str) -> None:
        self._losses += 1
        if self._losses >= _MAX_LOSSES:
            raise DataError(
                f"{self._losses} processes in a row were lost, the last by {how}: that is not the "
                "files; look at the memory and the file system, then go on with --retry-bad, "
                "fewer --jobs or a longer --timeout"
            )


def _serve(
    connection: Connection,
    work: Work,
    stamp: Callable[[str], Stamp | None],
    memory: int | None,
    parent: int,
) -> None:
    """What a worker process does: says that it is ready, then one item after the other."""
    # Signals may come to the whole group: it is the parent that decides when to end.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    _limit_memory(memory)
    with suppress(EOFError, BrokenPipeError):  # the parent has closed its end, or is no more
        connection.send(None)
        while True:
            connection.send(_attempt(work, connection.recv(), stamp))


def _attempt(work: Work, item: str, stamp: Callable[[str], Stamp | None]) -> _Result:
    """Does one item.

    An error that is the program's and not the file's ends the process, with its traceback.
    """
    found, begin = stamp(item), time.monotonic()
    values: Mapping[str, Any] = {}
    kind = error = ""
    try:
        values = work(item)
    except BadItemError as bad:
        kind, error, values = bad.kind, bad.reason, bad.values
    except StopWorkError as stop:
        return _Result(b"", False, 0, str(stop))
    except VideognError as bad:
        kind, error = "error", str(bad)
    except MemoryError:
        kind, error = "out of memory", "needs more memory than --memory allows"
    except OSError as bad:
        kind, error = "unreadable", f"cannot be read: {bad.strerror or bad}"
    seconds = time.monotonic() - begin
    record = Record(item, found, not kind, kind, error, seconds, time.time(), values)
    return _Result(record.to_line(), record.ok, int(values.get("bytes", 0)))


def _die_with(parent: int) -> None:
    """Has the kernel kill this process when `parent` dies, so that none is left behind.

    Elsewhere than on Linux it ends after its item, when it finds nobody to send the result to.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the call
        sys.exit(1)


def _limit_memory(memory: int | None) -> None:
    """Lets this process take `memory` bytes more of address space than it has now."""
    if memory is None or sys.platform != "linux":
        return
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + memory
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    if most == resource.RLIM_INFINITY or limit < most:
        resource.setrlimit(resource.RLIMIT_AS, (limit, most))
