"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from videogn.engine.durable import append_line
from videogn.errors import unusable_place

T = TypeVar("T")
log = logging.getLogger(__name__)

# Seconds between two plain lines.
LINE_EVERY = 20.0


def track(items: Iterable[T], *, total: int, what: str, unit: str, start: int = 0) -> Iterator[T]:
    """Yields `items` while showing how many of `total` are done and how long the rest will take.

    Args:
        items: to pass on.
        total: of the whole work.
        what: being done, a word or two.
        unit: of the rate.
        start: items done before.
    """
    if sys.stderr.isatty():
        bar = tqdm(items, total=total, desc=what, unit=f" {unit}", initial=start, leave=False)
        yield from bar
        return
    begin = spoke = time.monotonic()
    for done, item in enumerate(items, start + 1):
        yield item
        now = time.monotonic()
        if now - spoke >= LINE_EVERY and done < total:
            rate = (done - start) / (now - begin)
            log.info(
                "%s %d/%d, %.3g %s/s, %.0f s left",
                what,
                done,
                total,
                rate,
                unit,
                (total - done) / rate,
            )
            spoke = now


@contextmanager
def step_bar(
    *, start: int, total: int, clips_per_step: int, shown: bool = True
) -> Iterator[Callable[[float], None]]:
    """Yields what to call with the loss of each step: a bar on a terminal, nothing elsewhere.

    Elsewhere the lines of the log say the same.

    Args:
        start: steps done before.
        total: steps of the whole training.
        clips_per_step: of all ranks.
        shown: whether this process may show one.
    """
    if not shown or not sys.stderr.isatty():
        yield lambda _: None
        return
    with tqdm(
        desc="train",
        initial=start,
        total=total,
        unit=" clips",
        unit_scale=clips_per_step,
        leave=False,
    ) as bar:

        def stepped(loss: float) -> None:
            bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            bar.update()

        yield stepped


def duration(seconds: float) -> str:
    """Returns a time for people, in its two largest units: "3 d 4 h", "5 min", "20 s"."""
    minutes, hours, days = seconds / 60, seconds / 3600, seconds / 86400
    if days >= 1:
        return f"{int(days)} d {int(hours % 24)} h"
    if hours >= 1:
        return f"{int(hours)} h {int(minutes % 60)} min"
    return f"{int(minutes)} min" if minutes >= 2 else f"{seconds:.0f} s"


class _BarHandler(logging.Handler):
    """Prints lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # a pipe that is closed or a disk that is full ends no training
            tqdm.write(self.format(record), file=sys.stdout)
            sys.stdout.flush()


class _FileHandler(logging.Handler):
    """Appends whole lines to a file; those for which the disk has no room are lost, and said so."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path.absolute()
        self._failed = False

    def emit(self, record: logging.LogRecord) -> None:
        try:
            append_line(self.path, self.format(record))
        except OSError as error:
            if not self._failed:
                self._failed = True
                log.warning("the log lacks lines: %s", unusable_place(error))


def log_to_terminal(*, is_main: bool = True) -> None:
    """Sends the package's log lines to the terminal; of other ranks only warnings."""
    logger = logging.getLogger("videogn")
    logger.setLevel(logging.INFO if is_main else logging.WARNING)
    if not any(isinstance(handler, _BarHandler) for handler in logger.handlers):
        handler = _BarHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger.addHandler(handler)


@contextmanager
def log_to_file(path: Path) -> Iterator[None]:
    """Sends the package's log lines to a file too, with the time, within the context."""
    handler = _FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("videogn")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
