"""Which file a loader worker is in, for the day that it does not come back.

A reader ends by itself after `data.timeout`. What cannot be interrupted from inside (a hung file
system, a decoder stuck in C, a stopped or killed process) is seen from outside: each worker writes
into shared memory what it reads, and whoever waits for a batch looks there.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, sharedctypes
from multiprocessing.process import BaseProcess
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from videogn.errors import DataError

# Seconds that a worker may take beyond the limit of its reader, which looks at the clock only
# between two compressed frames.
MARGIN = 10.0
POLL = 1.0  # seconds between two looks at the workers
_DYING = 2.0  # seconds that a process may take to end
_SHOWING = 0.2  # seconds that a process may take to print its stacks
_SHOW = signal.SIGUSR2  # the signal that asks for them
_FIELDS = 3  # of a line of the board: pid, changes, row
_TIMED_OUT = "DataLoader timed out"  # how torch's message begins


class Line(NamedTuple):
    """What a worker has written.

    Attributes:
        pid: its process, 0 before it has started.
        changes: how often it has begun, gone on or ended; odd while it reads.
        row: of the video it reads or has read last.
    """

    pid: int
    changes: int
    row: int


class Board:
    """One line for each worker, in memory that they share with the process that reads it."""

    def __init__(self, num_workers: int) -> None:
        self._numbers = sharedctypes.RawArray("q", _FIELDS * num_workers)

    def write(self, worker: int, line: Line) -> None:
        """Sets the line of a worker."""
        self._numbers[_FIELDS * worker : _FIELDS * (worker + 1)] = line

    def lines(self) -> list[Line]:
        """Returns the lines of all workers."""
        numbers = self._numbers[:]
        return [Line(*numbers[at : at + _FIELDS]) for at in range(0, len(numbers), _FIELDS)]


class _Pen:
    """Writes the line of this process, if it is a worker with a board."""

    def __init__(self) -> None:
        self.board: Board | None = None
        self.worker = 0
        self.line = Line(0, 0, 0)

    def write(self, changes: int, row: int) -> None:
        if self.board is not None:
            self.line = Line(os.getpid(), changes, row)
            self.board.write(self.worker, self.line)


_pen = _Pen()


def join(board: Board, worker: int) -> None:
    """Makes this process write to line `worker` of `board` from now on."""
    # In C, at once, wherever the interpreter is: a decoder that never returns holds it.
    faulthandler.register(_SHOW, file=sys.__stderr__ or 2, all_threads=True)
    _pen.board, _pen.worker = board, worker
    _pen.write(0, 0)


@contextmanager
def reading(row: int) -> Iterator[Callable[[], None]]:
    """Notes, while it lasts, that this process reads the video of `row`.

    Yields what to call when reading has got on, so that its time begins anew.
    """
    _pen.write(_pen.line.changes + 1, row)
    try:
        yield lambda: _pen.write(_pen.line.changes + 2, row)
    finally:
        _pen.write(_pen.line.changes + 1, row)


class WatchedBatches(Iterator[Any]):
    """The items of a loader with workers; an error names the file that a lost worker was in.

    Args:
        loader: with `num_workers` above zero and `timeout=POLL`.
        board: that its workers write to.
        name_of: row -> the file, for messages.
        limit: seconds that a worker may be in one file; None for ever.
    """

    def __init__(
        self,
        loader: DataLoader[Any],
        board: Board,
        *,
        name_of: Callable[[int], str],
        limit: float | None,
    ) -> None:
        before = set(multiprocessing.active_children())
        with _sigchld_as_it_is(), _held_back():
            self._items = iter(loader)
        started = [p for p in multiprocessing.active_children() if p not in before]
        self._watch = _Watch(board, started, name_of, limit)
        if limit is not None:
            threading.Thread(target=self._watch.run, daemon=True, name="watch").start()
        weakref.finalize(self, self._watch.leave)

    def __next__(self) -> Any:
        """Returns the next item; DataError when a worker was killed or has got stuck."""
        try:
            with self._watch.waiting():
                return self._next_item()
        # torch says RuntimeError, but the pipe to a worker that was killed may break first.
        except (RuntimeError, OSError, EOFError) as error:
            reason = self._watch.stuck or self._watch.why_dead()
            self._watch.kill_all()  # torch would wait 5 s for each
            if reason:
                raise DataError(reason) from error
            raise

    def _next_item(self) -> Any:
        while True:
            try:
                return next(self._items)
            except RuntimeError as error:
                if self._watch.stuck or not str(error).startswith(_TIMED_OUT):
                    raise


class _Watch:
    """Looks whether the workers get on; `stuck` says which does not, and is empty until then."""

    def __init__(
        self,
        board: Board,
        processes: Sequence[BaseProcess],
        name_of: Callable[[int], str],
        limit: float | None,
    ) -> None:
        self.stuck = ""
        self._board, self._processes = board, processes
        self._name_of, self._limit = name_of, limit
        self._waits = 0  # odd while a batch is waited for
        self._stop = threading.Event()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Notes, while it lasts, that a batch is waited for."""
        self._waits += 1
        try:
            yield
        finally:
            self._waits += 1

    def leave(self) -> None:
        """Ends `run` and the workers: torch would wait 10 s for each that is in a video."""
        self._stop.set()
        self.kill_all()

    def run(self) -> None:
        """Kills the workers when one has got stuck, so that nobody waits for it any more.

        Waiting may itself be stuck: a batch is fetched through a socket of the worker's.
        """
        seen = self._state()
        since = [time.monotonic()] * len(seen)
        while not self._stop.wait(POLL):
            now, state = time.monotonic(), self._state()
            since = [
                before if old == new else now
                for old, new, before in zip(seen, state, since, strict=True)
            ]
            seen = state
            if self._is_waited_for():
                self.stuck = self._why_stuck([now - moment for moment in since])
                if self.stuck:
                    self._show_stacks()
                    self.kill_all()
                    return

    def _state(self) -> list[tuple[int, Line]]:
        # A worker may do nothing for long while nobody waits: its time begins with each wait.
        return [(self._waits, line) for line in self._board.lines()]

    def _is_waited_for(self) -> bool:
        return self._waits % 2 == 1

    def _show_stacks(self) -> None:
        """Has the workers that have begun print where they are; a stopped one cannot."""
        for line in self._board.lines():
            if line.pid:
                with suppress(ProcessLookupError):
                    os.kill(line.pid, _SHOW)
        time.sleep(_SHOWING)

    def kill_all(self) -> None:
        """Ends the workers, also stopped ones, which would not see any other signal."""
        for process in self._processes:
            process.kill()

    def why_dead(self) -> str:
        """Returns which worker has ended and in which file it was; empty if none has."""
        # A pipe breaks a moment before its process is gone.
        ended = connection.wait([process.sentinel for process in self._processes], _DYING)
        for process in self._processes:
            if process.sentinel in ended:
                process.join(_DYING)
            if process.exitcode is not None:
                line = next((x for x in self._board.lines() if x.pid == process.pid), None)
                return f"a loader worker {_ending(process.exitcode)} {self._place(line)}"
        return ""

    def _why_stuck(self, silent: Sequence[float]) -> str:
        limit = self._limit or 0.0
        lines = self._board.lines()
        for line, seconds in zip(lines, silent, strict=True):
            if line.changes % 2 and seconds > limit:
                return (
                    f"{self._name_of(line.row)} has kept a loader worker for more than {limit:g} "
                    "s; remove it from the list, look at its file system, or raise data.timeout"
                )
        if min(silent) > limit:  # none is in a file, and yet no batch comes
            places = ", ".join(self._place(line) for line in lines)
            return f"no loader worker has answered for more than {limit:g} s ({places})"
        return ""

    def _place(self, line: Line | None) -> str:
        if line is None or not line.changes:
            return "before its first video"
        when = "while reading" if line.changes % 2 else "after reading"
        return f"{when} {self._name_of(line.row)}"


def _ending(exitcode: int) -> str:
    if exitcode == -signal.SIGKILL:
        return "was killed (out of memory? then lower data.num_workers)"
    if exitcode < 0:
        return f"was ended by {signal.Signals(-exitcode).name}"
    return f"ended with code {exitcode}"


@contextmanager
def _held_back() -> Iterator[None]:
    """Holds back signals that end a run, for this process and for those that it starts meanwhile.

    A worker is started with torch's handlers, under which a SIGTERM to the group would end it. It
    stays so until it ignores them; this process obeys what has come when the context ends.
    """
    ending = {signal.SIGINT, signal.SIGTERM, signal.SIGUSR1}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _sigchld_as_it_is() -> Iterator[None]:
    """Undoes torch's handler, which raises wherever the program happens to be.

    Whether a worker has ended is looked at where a batch is waited for.
    """
    handler = signal.getsignal(signal.SIGCHLD) if hasattr(signal, "SIGCHLD") else None
    yield
    if handler is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, handler)
