"""Signals that end a run: noted when they come, obeyed between two steps."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
# Seconds within which a second signal is an echo of the first.
ECHO = 2.0


class Interruption:
    """Whether a signal has come; called, says so.

    Attributes:
        number: of the first signal, None until it comes.
    """

    def __init__(self) -> None:
        self.number: signal.Signals | None = None

    def __call__(self) -> bool:
        """Returns whether one has come."""
        return self.number is not None


@contextmanager
def noted_signals() -> Iterator[Interruption]:
    """Yields what says whether SIGINT, SIGTERM or SIGUSR1 has come.

    The first of them is only noted, so that the step can end and its checkpoint be saved. A second
    one ends the process at once, unless it comes with the first: Slurm signals every process of a
    job and torchrun passes its own on, so that each process hears of one end twice.
    """
    came = 0.0
    interruption = Interruption()
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def note(number: int, _: FrameType | None) -> None:
        nonlocal came
        now = time.monotonic()
        if not interruption():
            came, interruption.number = now, signal.Signals(number)
        elif now - came > ECHO:
            restore()
            signal.raise_signal(number)

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield interruption
    finally:
        restore()
