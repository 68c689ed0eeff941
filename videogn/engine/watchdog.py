"""Ranks that end together: a thread in each sees whether it and the others get on.

A collective knows nothing of why the other side does not answer, and under NCCL may never return.
So whoever fails says so in the store that all share, every rank shows there that it lives, and one
that hangs prints where before it is ended.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch

from videogn.engine import distributed
from videogn.engine.distributed import Ranks
from videogn.errors import RankLostError, VideognError

T = TypeVar("T")
log = logging.getLogger(__name__)

POLL = 1.0  # seconds between two looks
# Seconds that a rank has to end by itself once another has failed, before the thread ends it.
GRACE = 8.0
# Part of the limit after which a silent rank prints its stacks: before anybody ends it.
SILENT = 0.8
_LEFT = "left"  # the sign of a rank that has nothing more to do
# How gloo and NCCL say that the other side is not there.
_LOST = re.compile(r"gloo|nccl|connection (was )?(closed|reset|refused)|timed out waiting", re.I)


@dataclass
class _Place:
    """Where this process is, and since when; None: in nothing whose time is limited."""

    what: str | None = None
    since: float = 0.0


_place = _Place()
_waits = itertools.count()  # the same on all ranks, which do the same things in the same order


def now(what: str | None) -> None:
    """Notes what this process begins, such as "step 7"; None when it has ended."""
    _place.what, _place.since = what, time.monotonic()


def each(items: Iterable[T], what: str, ranks: Ranks) -> Iterator[T]:
    """Yields this rank's `items`, noting that `what` gets on, then waits for the other ranks.

    Shares of unequal work end at different times: the wait has no limit but that the others live
    and get on, unlike that of a collective.
    """
    now(what)
    for item in items:
        now(what)
        yield item
    now(None)
    if ranks.store is None:
        return
    key = f"videogn/ended/{next(_waits)}"
    ranks.store.add(key, 1)
    while ranks.store.add(key, 0) < ranks.world:
        time.sleep(POLL / 10)


@contextmanager
def together(device: torch.device, limit: float) -> Iterator[Ranks]:
    """Yields this process's place among those of the run, which end together.

    Args:
        device: of this process.
        limit: seconds that a rank may take over one step, batch or video, or be waited for.

    Raises:
        RankLostError: another rank has failed; with its reason and exit code if it told them.
    """
    try:
        ranks = distributed.join(device, limit)
    except RuntimeError as error:
        words = " ".join(str(error).split())[:300]
        raise RankLostError(
            f"the processes of the run did not find each other ({words}); start all of them, at "
            "the same rendezvous"
        ) from error
    watch = _Watch(ranks, limit)
    try:
        with watch.running():
            yield ranks
            distributed.leave()
    except (Exception, KeyboardInterrupt) as error:
        # Not leaving the group then: NCCL would wait for the others.
        if ranks.world > 1 and isinstance(error, RuntimeError) and _LOST.search(str(error)):
            raise watch.why_lost(error) from error
        watch.tell(error)
        raise
    finally:
        now(None)


class _Watch:
    """Looks from a thread, through a connection to the store of its own."""

    def __init__(self, ranks: Ranks, limit: float) -> None:
        self.ranks, self.limit = ranks, limit
        self.store = ranks.store.clone() if ranks.store else None
        self._ended = threading.Event()
        self._warned_of: float | None = None  # beginning of the place whose stacks were printed
        self._neighbour = (b"", time.monotonic())  # the last sign of its life, and since when

    @contextmanager
    def running(self) -> Iterator[None]:
        """Runs the thread within the context."""
        threading.Thread(target=self._run, daemon=True, name="watchdog").start()
        try:
            yield
            self._write(f"alive/{self.ranks.rank}", _LEFT)
        finally:
            self._ended.set()

    def tell(self, error: BaseException) -> None:
        """Lets the other ranks know that this one ends, and why."""
        code = error.exit_code if isinstance(error, VideognError) else 1
        code = 130 if isinstance(error, KeyboardInterrupt) else code
        self._tell(code, str(error) or type(error).__name__)

    def why_lost(self, error: RuntimeError) -> RankLostError:
        """Returns what to raise when a collective has failed."""
        deadline = time.monotonic() + GRACE
        while time.monotonic() < deadline:
            failed = self._failed()
            if failed is not None:
                return failed
            time.sleep(POLL / 10)
        words = " ".join(str(error).split())[:300]
        return RankLostError(
            f"another process of the run has ended or hangs, and did not say why ({words}); look "
            "at its own output; the same command goes on from the last checkpoint"
        )

    def _run(self) -> None:
        count = 0
        while not self._ended.wait(POLL):
            count += 1
            self._write(f"alive/{self.ranks.rank}", str(count))
            failed = self._failed()
            if failed is not None and not self._ended.wait(GRACE):
                _end(failed.exit_code, str(failed))
            self._look_at_neighbour()
            self._look_at_this_rank()

    def _look_at_this_rank(self) -> None:
        what, since = _place.what, _place.since
        if what is None:
            return
        silent = time.monotonic() - since
        if silent > SILENT * self.limit and self._warned_of != since:
            self._warned_of = since
            log.warning(
                "rank %d: %s has taken %.0f s so far\n%s", self.ranks.rank, what, silent, _stacks()
            )
        # A single process keeps nobody waiting, and may be slow.
        if silent > self.limit and self.ranks.world > 1:
            text = f"{what} took more than rank_timeout={self.limit:g} s"
            self._tell(1, text)
            _end(1, f"rank {self.ranks.rank}: {text}; see above where it was")

    def _look_at_neighbour(self) -> None:
        """Ends the run when the next rank shows no life: killed, stopped, or its machine gone.

        A ring of neighbours sees any loss, as long as one rank is left, with one look each.
        """
        if self.store is None:
            return
        rank = (self.ranks.rank + 1) % self.ranks.world
        seen, since = self._neighbour
        sign = self._read(f"alive/{rank}")
        if self.store is None:
            return
        if sign != seen:
            self._neighbour = (sign, time.monotonic())
        elif seen != _LEFT.encode() and time.monotonic() - since > self.limit:
            text = f"rank {rank} has shown no life for rank_timeout={self.limit:g} s"
            self._tell(1, text)
            _end(1, text)

    def _failed(self) -> RankLostError | None:
        """Returns what another rank has told, None if nothing."""
        told = self._read("failed").decode(errors="replace")
        if not told:
            return None
        rank, code, text = told.split(" ", 2)
        if int(rank) == self.ranks.rank:
            return None
        return RankLostError(f"rank {rank} ended the run: {text}", int(code))

    def _tell(self, code: int, text: str) -> None:
        if not self._read("failed"):  # the first to fail is the reason; others follow from it
            self._write("failed", f"{self.ranks.rank} {code} {text}")

    def _read(self, key: str) -> bytes:
        """Returns what a rank has written, nothing if none has."""
        try:
            if self.store is not None and self.store.check([f"videogn/{key}"]):
                return self.store.get(f"videogn/{key}")
        except RuntimeError as error:
            self._lose_store(error)
        return b""

    def _write(self, key: str, text: str) -> None:
        try:
            if self.store is not None:
                self.store.set(f"videogn/{key}", text)
        except RuntimeError as error:
            self._lose_store(error)

    def _lose_store(self, error: RuntimeError) -> None:
        """Goes on without: torchrun, or rank 0 where there is none, held it and has ended."""
        log.debug("the store is gone: %s", error)
        self.store = None


def _stacks() -> str:
    """Returns where every other thread of this process is."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    lines: list[str] = []
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            lines.append(f"thread {names.get(ident, ident)}:")
            lines.extend(line.rstrip() for line in traceback.format_stack(frame))
    return "\n".join(lines)


def _end(code: int, why: str) -> None:
    """Ends this process wherever it is; the checkpoints on disk are whole at any moment."""
    log.error("%s", why)
    for handler in logging.getLogger("videogn").handlers:
        handler.flush()
    os._exit(code)
