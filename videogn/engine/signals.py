"""Signals that end a run: noted when they come, obeyed between two steps."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


@contextmanager
def noted_signals() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether SIGINT, SIGTERM or SIGUSR1 has come.

    The first of them is only noted, so that the step can end and its checkpoint be saved; after
    it the signals do again what they did before, so a second one ends the process at once.
    """
    came = False
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(_: int, __: FrameType | None) -> None:
        nonlocal came
        came = True
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield lambda: came
    finally:
        restore()
