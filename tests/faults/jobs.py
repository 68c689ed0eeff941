"""Whole runs as processes that can be watched, signalled and killed, several at the same time.

Importing torch takes seconds, a run of a thin network less: this process imports everything once
and is forked for every run, which then goes through `cli.main` as any other. It must not start
threads or train anything itself.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol, TypeVar

from videogn import cli

T = TypeVar("T")
# What an injection is: it yields while it waits, so that others may go on, and returns in the end.
Waiting = Generator[None, None, T]
# Of a process of a run: spoils something in it before it begins, given its rank.
Sabotage = Callable[[int], None]

REPOSITORY = Path(__file__).parents[2]
LIMIT = 180.0  # seconds after which a run counts as hung; one takes 1 to 5 on an idle core
_fork = multiprocessing.get_context("fork")


class Lost(Exception):  # noqa: N818  what it says is no error of the program that raises it
    """A fault was not survived; the message says what came instead."""


class _Process(Protocol):
    """What a run's process is known by."""

    @property
    def pid(self) -> int | None:
        """Of the leader of a process group of its own."""
        ...

    @property
    def exitcode(self) -> int | None:
        """None while it runs, -N when signal N ended it."""
        ...


class _Script:
    """A process that was not forked from this one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self.pid = process, process.pid

    @property
    def exitcode(self) -> int | None:
        """See `_Process`."""
        return self._process.poll()


class Job:
    """The processes of one run: its ranks, or a single one.

    Args:
        processes: by rank, each the leader of a process group of its own.
        output: the file that they write to.
    """

    def __init__(self, processes: Sequence[_Process], output: Path) -> None:
        self.processes, self._output = processes, output

    @property
    def codes(self) -> list[int | None]:
        """Exit codes by rank; None of those that still run."""
        return [process.exitcode for process in self.processes]

    @property
    def has_ended(self) -> bool:
        """Whether no rank runs any more."""
        return None not in self.codes

    @property
    def output(self) -> str:
        """What was written to stdout and stderr."""
        return self._output.read_text(encoding="utf-8", errors="replace")

    def send(self, number: int, *, ranks: Sequence[int] | None = None, group: bool = False) -> None:
        """Signals the processes of some ranks, all by default, or with their loader workers."""
        for rank in range(len(self.processes)) if ranks is None else ranks:
            pid = self.processes[rank].pid
            assert pid is not None
            with suppress(ProcessLookupError):
                (os.killpg if group else os.kill)(pid, number)

    def kill(self) -> None:
        """Ends everything that the run has started, at once."""
        self.send(signal.SIGKILL, group=True)

    def children(self, rank: int = 0) -> list[int]:
        """Process ids of the loader workers of a rank, and of whatever else it has started."""
        pid = self.processes[rank].pid
        try:
            text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
        except OSError:
            return []
        return [int(word) for word in text.split()]


def start(
    words: Sequence[str],
    folder: Path,
    *,
    world: int = 1,
    sabotage: Sabotage | None = None,
    environment: Mapping[str, str | None] | None = None,
) -> Job:
    """Starts `run.py WORDS` in `folder`, on `world` ranks.

    Args:
        words: of the command line.
        folder: to run in; is made. `output N.txt` there takes what the run writes.
        world: ranks; above one they meet as under torchrun.
        sabotage: what to spoil.
        environment: variables to set, or with None to unset.
    """
    output = _new_output(folder)
    port = _free_port() if world > 1 else 0
    processes = []
    for rank in range(world):
        place = {} if world == 1 else _place(rank, world, port)
        arguments = (words, output, place | dict(environment or {}), sabotage, rank)
        process = _fork.Process(target=_live, args=arguments)
        process.start()
        processes.append(process)
    job = Job(processes, output)
    _running.append(job)
    return job


def start_script(words: Sequence[str], folder: Path, *before: str) -> Job:
    """Starts the real `python BEFORE run.py WORDS` in `folder`: `start` without its short cut."""
    output = _new_output(folder)
    command = [sys.executable, *before, str(REPOSITORY / "run.py"), *words]
    with output.open("ab") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=file, start_new_session=True
        )
    job = Job([_Script(process)], output)
    _running.append(job)
    return job


def _live(
    words: Sequence[str],
    output: Path,
    environment: Mapping[str, str | None],
    sabotage: Sabotage | None,
    rank: int,
) -> None:
    """Is what a process of a run does with its life."""
    os.setsid()
    descriptor = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.chdir(output.parent)
    for name, value in environment.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    if sabotage:
        sabotage(rank)
    try:
        sys.exit(cli.main(words))
    finally:  # what the end of an interpreter does, such as torch's with its loader workers
        atexit._run_exitfuncs()


def _new_output(folder: Path) -> Path:
    """A file of its own for each run in a folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"output {len(list(folder.glob('output *')))}.txt"
    path.touch()
    return path


def _place(rank: int, world: int, port: int) -> dict[str, str]:
    """The variables that torchrun sets."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


_running: list[Job] = []


@contextmanager
def nothing_left_running() -> Iterator[None]:
    """Ends, when it is left, whatever was started meanwhile."""
    try:
        yield
    finally:
        for job in _running:
            job.kill()
        _running.clear()


def until(
    condition: Callable[[], bool], job: Job, what: str, limit: float = LIMIT
) -> Waiting[None]:
    """Waits for `condition`.

    Raises:
        Lost: the run ended before, or it took longer than `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while not condition():
        if job.has_ended and not condition():
            raise Lost(f"ended with {job.codes} before {what}: {_tail(job)}")
        if time.monotonic() > deadline:
            job.kill()
            raise Lost(f"{what} did not come within {limit:g} s")
        yield


def ended(job: Job, within: float = LIMIT) -> Waiting[list[int | None]]:
    """Waits for the end of all ranks; returns their exit codes.

    Raises:
        Lost: some still ran after `within` seconds.
    """
    deadline = time.monotonic() + within
    while not job.has_ended:
        if time.monotonic() > deadline:
            codes = job.codes
            job.kill()
            raise Lost(f"still runs after {within:g} s (exit codes {codes}): {_tail(job)}")
        yield
    return job.codes


def expect(job: Job, *codes: int, within: float = LIMIT, says: str = "") -> Waiting[None]:
    """Waits for the end of the run, which must be one of `codes` on all ranks, in one sentence.

    Raises:
        Lost: another exit code, a traceback, or an error that does not say `says`.
    """
    found = yield from ended(job, within)
    if not set(found) <= set(codes):
        raise Lost(f"ended with {found} instead of {codes}: {_tail(job)}")
    if "Traceback (most recent call last)" in job.output:
        raise Lost(f"a traceback: {_tail(job)}")
    if says not in job.output:
        raise Lost(f"does not say {says!r}: {_tail(job)}")


def pause(seconds: float) -> Waiting[None]:
    """Waits."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield


def _tail(job: Job) -> str:
    """The error of a run, or the last of what it wrote, on one line."""
    lines = [line for line in job.output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    return " | ".join(errors[-1:] or lines[-3:])[-400:]
