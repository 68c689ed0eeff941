"""Ranks as forks of the test's own process: two of them meet within a tenth of a second."""

from __future__ import annotations

import logging
import multiprocessing
import os
import socket
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from videogn.engine import watchdog
from videogn.engine.distributed import Ranks
from videogn.errors import VideognError


@dataclass
class Ended:
    """How a rank has ended.

    Attributes:
        code: its exit code.
        output: what it wrote.
        seconds: from the start of all to its end.
    """

    code: int | None
    output: str
    seconds: float


def run_ranks(
    folder: Path,
    work: Callable[[Ranks], None],
    *,
    limit: float,
    world: int = 2,
    disturb: Callable[[list[BaseProcess]], None] = lambda _: None,
) -> list[Ended]:
    """Returns how ranks end that do `work` within `watchdog.together`.

    Args:
        folder: for their output.
        work: of each rank.
        limit: seconds, as `rank_timeout`.
        world: number of ranks.
        disturb: is given the processes, once they run.
    """
    context, port = multiprocessing.get_context("fork"), _free_port()
    outputs = [folder / f"rank_{rank}.txt" for rank in range(world)]
    processes: list[BaseProcess] = [
        context.Process(target=_be_rank, args=(rank, world, port, outputs[rank], work, limit))
        for rank in range(world)
    ]
    begin = time.monotonic()
    for process in processes:
        process.start()
    try:
        disturb(processes)
        seconds = []
        connection.wait([process.sentinel for process in processes], limit + 20)
        for process in processes:
            process.join(4)
            seconds.append(time.monotonic() - begin)
    finally:
        for process in processes:
            process.kill()
    return [
        Ended(process.exitcode, output.read_text(), passed)
        for process, output, passed in zip(processes, outputs, seconds, strict=True)
    ]


def _be_rank(
    rank: int, world: int, port: int, output: Path, work: Callable[[Ranks], None], limit: float
) -> None:
    """Lives one rank's life as `run.py` would."""
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    handler = logging.StreamHandler(os.fdopen(2, "w", closefd=False))
    logging.getLogger("videogn").handlers[:] = [handler]
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    os.environ["MASTER_PORT"] = str(port)
    watchdog.POLL, watchdog.GRACE = 0.1, 1.0
    try:
        with watchdog.together(torch.device("cpu"), limit) as ranks:
            work(ranks)
    except VideognError as error:
        os.write(2, f"error: {error}\n".encode())
        os._exit(error.exit_code)
    except Exception:  # noqa: BLE001  as the interpreter does
        os.write(2, traceback.format_exc().encode())
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]
