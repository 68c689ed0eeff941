"""Injections into whole runs, and playing many of them at the same time in one thread."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.faults.jobs import nothing_left_running
from tests.faults.table import Finding
from tests.faults.waiting import Lost, Waiting

_POLL = 0.002  # seconds between two looks at what is waited for


@dataclass(frozen=True)
class Injection:
    """A fault to inject into a run.

    Attributes:
        row: of the table that it belongs to.
        name: what is done.
        play: does it in a folder of its own; raises Lost when it was not survived.
        count: faults that it injects.
        is_quick: whether it is one of the few that every run of the slow tests injects.
    """

    row: str
    name: str
    play: Callable[[Path], Waiting[object]]
    count: int = 1
    is_quick: bool = False


def play(injections: Iterable[Injection], folder: Path, at_once: int) -> Iterator[Finding]:
    """What came of each injection, in the order in which they end.

    Args:
        injections: to play.
        folder: where each gets a folder of its own.
        at_once: how many are played at the same time.
    """
    todo = deque(enumerate(injections))
    playing: list[tuple[Injection, Waiting[object]]] = []
    with nothing_left_running():
        while todo or playing:
            while todo and len(playing) < at_once:
                number, injection = todo.popleft()
                place = folder / f"{number:03d} {injection.row.partition(' ')[0]}"
                place.mkdir(parents=True)
                playing.append((injection, injection.play(place)))
            for pair in list(playing):
                problem = _go_on(pair[1])
                if problem is not None:
                    playing.remove(pair)
                    injection = pair[0]
                    yield Finding(injection.row, injection.name, problem, injection.count)
            time.sleep(_POLL)


def _go_on(waiting: Waiting[object]) -> str | None:
    """The problem of an injection that has ended by now, None while it goes on."""
    try:
        next(waiting)
    except StopIteration:
        return ""
    except Lost as lost:
        return " ".join(str(lost).split())
    return None
