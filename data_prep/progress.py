"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY = 10.0  # seconds between two plain lines
_MEGA = 1e6


class Progress:
    """Counts items done, bad ones and bytes, and shows them on stderr.

    Args:
        what: is being done, a word or two.
        total: items of the whole work.
        before: items done earlier; they count in the total but not in the rate.
        unit: an item, in one word.
    """

    def __init__(self, what: str, *, total: int, before: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.bad, self.size = 0, 0, 0
        self._before = before
        self._begin = self._spoke = time.monotonic()
        self._bar: tqdm | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=before, desc=what, unit=f" {unit}", leave=False)

    def add(self, *, ok: bool, size: int) -> None:
        """Counts one item of `size` bytes."""
        self.done += 1
        self.bad += not ok
        self.size += size
        if self._bar is not None:
            rate = self.size / _MEGA / max(time.monotonic() - self._begin, 1e-9)
            self._bar.set_postfix_str(f"{rate:.3g} MB/s, {self.bad} bad", refresh=False)
            self._bar.update()

    def tick(self) -> None:
        """Writes a plain line when one is due; to be called often."""
        now = time.monotonic()
        if self._bar is None and now - self._spoke >= LINE_EVERY:
            self._spoke = now
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        """How far the work is, how fast, how long it will take and how many items were bad."""
        seconds = max(time.monotonic() - self._begin, 1e-9)
        done = self._before + self.done
        text = (
            f"{self.what}: {done}/{self.total} {self.unit}s, {self.bad} bad, "
            f"{self.done / seconds:.3g} {self.unit}s/s, {self.size / _MEGA / seconds:.3g} MB/s"
        )
        if self.done and done < self.total:
            text += f", {duration((self.total - done) * seconds / self.done)} left"
        return text

    def close(self) -> None:
        """Takes the bar away, or writes a last line."""
        if self._bar is not None:
            self._bar.close()
        print(self.line(), file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """`seconds` in words: "42 s", "3 min 20 s", "2 h 5 min"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
