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
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from torch._C._distributed_c10d import TCPStore

from videogn import cli

# Of a process of a run: spoils something in it before it begins, given its rank.
Sabotage = Callable[[int], None]

REPOSITORY = Path(__file__).parents[2]
_fork = multiprocessing.get_context("fork")


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
        launcher: what they meet at, and what must go with them.
    """

    def __init__(
        self, processes: Sequence[_Process], output: Path, launcher: _Process | None = None
    ) -> None:
        self.processes, self._output, self._launcher = processes, output, launcher

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

    @property
    def tail(self) -> str:
        """The error that ended it, or the last that it wrote, on one line."""
        lines = [line for line in self.output.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return " | ".join(errors[-1:] or lines[-3:])[-400:]

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
        self.dismiss()

    def dismiss(self) -> None:
        """Ends what the ranks met at."""
        if self._launcher and self._launcher.pid and self._launcher.exitcode is None:
            os.kill(self._launcher.pid, signal.SIGKILL)

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
    launcher = _fork.Process(target=_launch, args=(port,)) if world > 1 else None
    if launcher:
        launcher.start()
    processes = []
    for rank in range(world):
        place = {} if world == 1 else _place(rank, world, port)
        arguments = (words, output, place | dict(environment or {}), sabotage, rank)
        process = _fork.Process(target=_live, args=arguments)
        process.start()
        processes.append(process)
    job = Job(processes, output, launcher)
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
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _launch(port: int) -> None:
    """Keeps the store of the ranks, as torchrun does: it must not hang when one of them does."""
    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    signal.pause()
    del store


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
