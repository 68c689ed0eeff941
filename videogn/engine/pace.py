"""How fast training gets on, and how much of the time goes by waiting for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

# Share of the time above which waiting for data is worth a word.
WAITING = 0.15
# Seconds between two such words.
ADVISE_EVERY = 600.0


class Clock:
    """Time since the last record: how much of it there was, and how much went by waiting."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begins anew, as after a test in between."""
        self.steps, self.waited, self.since = 0, 0.0, time.perf_counter()

    def wait_for(self, batches: Iterator[Any]) -> Any:
        """Returns the next batch, counting the wait."""
        begin = time.perf_counter()
        batch = next(batches)
        self.waited += time.perf_counter() - begin
        return batch

    @property
    def seconds(self) -> float:
        """Time since the last record, above zero."""
        return max(time.perf_counter() - self.since, 1e-9)


class WaitingAdvice:
    """Decides when to say what helps against waiting for data: seldom."""

    def __init__(self) -> None:
        self._records = 0
        self._next = 0.0

    def is_due(self, data_wait: float) -> bool:
        """Returns whether to speak, given a record's share of the time.

        Never at the first record, whose wait is that for the workers to start.
        """
        self._records += 1
        now = time.monotonic()
        if data_wait <= WAITING or self._records == 1 or now < self._next:
            return False
        self._next = now + ADVISE_EVERY
        return True
