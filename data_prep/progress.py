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
        bad: how many of those were bad.
        unit: an item, in one word.
    """

    def __init__(self, what: str, *, total: int, before: int, unit: str, bad: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.done, self.bad, self.size = 0, bad, 0
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
        text = f"{self.what}: {done}/{self.total} {self.unit}s, {self.bad} bad"
        if not self.done and done >= self.total:
            return f"{text}; nothing was left to do"
        text += (
            f", {self.done / seconds:.3g} {self.unit}s/s, {self.size / _MEGA / seconds:.3g} MB/s"
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


def number_of(number: int, one: str, several: str = "") -> str:
    """`number` with its noun: "1 video", "2 videos"; `several` where it is not `one` and s."""
    return f"{number} {one if number == 1 else several or one + 's'}"


def size_text(num_bytes: float) -> str:
    """`num_bytes` in GB, or in MB or kB where that would be a small fraction: "3.28 MB"."""
    for unit, name in ((1e9, "GB"), (1e6, "MB")):
        if num_bytes >= 0.1 * unit:
            return f"{_rounded(num_bytes / unit)} {name}"
    return f"{_rounded(num_bytes / 1e3)} kB"


def length_text(seconds: float) -> str:
    """`seconds` of video: "26.3 s", from a minute on "0:07:43", from 100 hours on "671 h"."""
    whole = round(seconds)
    if whole < 60:
        return f"{_rounded(seconds)} s"
    if whole >= 360_000:
        return f"{_rounded(seconds / 3600)} h"
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def _rounded(value: float) -> str:
    """`value` to three digits, larger ones in full: 1,234 and not 1.23e+03."""
    return f"{value:,.0f}" if value >= 999.5 else f"{value:.3g}"
