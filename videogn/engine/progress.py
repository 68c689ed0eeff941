"""Progress of long work: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

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


class _BarHandler(logging.Handler):
    """Prints lines above a progress bar instead of through it."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stdout)
        sys.stdout.flush()


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
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("videogn")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()
