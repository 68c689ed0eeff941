"""Processes that do one item at a time and can be killed one by one.

One that takes too long is killed, one that crashes is replaced; either way there is a result for
the item, and the rest goes on.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.journal import Record, Stamp
from videogn.errors import DataError, VideognError

if sys.platform != "win32":
    import resource

Work = Callable[[str], Mapping[str, Any]]

_TICK = 0.5  # seconds between two looks at the clock and at the signals
_GRACE = 5.0  # seconds that items in hand have to end after a signal; Slurm gives 30
_START_TIMEOUT = 300.0  # seconds for a process to import its modules, on a busy file system too
_MAX_LOSSES = 20  # in a row: then it is not the files
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

    The item is not recorded, and all work ends with a DataError.
    """


class Result(NamedTuple):
    """A line for the journal, and what progress shows of it; or why all work must stop."""

    line: bytes
    ok: bool
    size: int
    stop: str = ""


class Worker:
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
        """Whether it waits for an item."""
        return self.is_ready and self.item is None

    def give(self, item: str) -> None:
        """Has it begin with `item`."""
        self.item, self.since = item, time.monotonic()
        with suppress(BrokenPipeError, ConnectionResetError):  # found dead on receiving
            self.connection.send(item)

    def receive(self) -> Result | None:
        """The result of the item; None from a process that has started. EOFError if it died."""
        try:
            message = self.connection.recv()
        except ConnectionResetError as error:
            raise EOFError from error
        self.is_ready, self.item = True, None
        return message

    def bad(self, kind: str, error: str) -> Result:
        """The record of the item that this process did not get through."""
        assert self.item is not None
        seconds = time.monotonic() - self.since
        found = self.stamp(self.item)
        record = Record(self.item, found, False, kind, error, seconds, time.time())
        return Result(record.to_line(), False, 0)

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


class Crew:
    """The processes, and the items that wait for one."""

    def __init__(
        self, todo: Sequence[str], start: Callable[[], Worker], jobs: int, timeout: float
    ) -> None:
        self._waiting = deque(todo)
        self._start, self._jobs, self._timeout = start, jobs, timeout
        self._workers: list[Worker] = []
        self._losses = 0  # processes lost one after the other

    def results(self, stopped: Callable[[], bool]) -> Generator[Result | None, None, None]:
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

    def _receive(self, worker: Worker) -> Result | None:
        try:
            result = worker.receive()
        except EOFError:
            how = self._dismiss(worker)
            self._count_loss(how)
            return worker.bad("crash", f"its process died of {how}") if worker.item else None
        if result is not None:
            self._losses = 0
        return result

    def _limit(self, worker: Worker) -> float:
        """Seconds that it may take to what it is doing."""
        if worker.is_idle:
            return float("inf")
        return self._timeout if worker.is_ready else _START_TIMEOUT

    def _give_up(self, worker: Worker) -> Result | None:
        self._dismiss(worker)
        limit = self._limit(worker)
        self._count_loss(f"taking more than {limit:g} s")
        return worker.bad("time-out", f"took more than {limit:g} s") if worker.item else None

    def _dismiss(self, worker: Worker) -> str:
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


def _attempt(work: Work, item: str, stamp: Callable[[str], Stamp | None]) -> Result:
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
        return Result(b"", False, 0, str(stop))
    except VideognError as bad:
        kind, error = "error", str(bad)
    except MemoryError:
        kind, error = "out of memory", "needs more memory than --memory allows"
    except OSError as bad:
        kind, error = "unreadable", f"cannot be read: {bad.strerror or bad}"
    seconds = time.monotonic() - begin
    record = Record(item, found, not kind, kind, error, seconds, time.time(), values)
    return Result(record.to_line(), record.ok, int(values.get("bytes", 0)))


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
