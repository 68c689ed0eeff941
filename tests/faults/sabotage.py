"""What can be spoilt inside a run's process: each function returns what `jobs.start` takes.

Nothing of this is in the program: a forked process replaces one function of a library or of
`videogn` before the run begins.
"""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from functools import partial, wraps
from pathlib import Path
from typing import Any

from torch.utils.data import get_worker_info

from tests.faults.jobs import Sabotage
from videogn import build

HOURS = 1e5  # seconds that something stays stuck for

_PIECE = 100_000  # bytes of a checkpoint that a slow disk takes at a time


def all_of(*sabotages: Sabotage) -> Sabotage:
    """Does one after the other."""

    def spoil(rank: int) -> None:
        for sabotage in sabotages:
            sabotage(rank)

    return spoil


def on_rank(wanted: int, sabotage: Sabotage) -> Sabotage:
    """Spoils one rank only."""
    return lambda rank: sabotage(rank) if rank == wanted else None


def at_call(
    owner: Any, name: str, number: int, instead: Callable[..., Any], *, mark: Path | None = None
) -> Sabotage:
    """Makes the `number`-th call of `owner.name` (1, 2, ...) a call of `instead(plain, ...)`.

    `mark` is touched right before.
    """

    def spoil(_: int) -> None:
        plain, calls = getattr(owner, name), 0

        @wraps(plain)
        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls != number:
                return plain(*args, **kwargs)
            if mark:
                mark.touch()
            return instead(plain, *args, **kwargs)

        setattr(owner, name, counted)

    return spoil


class _SlowFile(io.FileIO):
    """A file on a disk that takes a little at a time."""

    seconds = 0.0

    def write(self, data: Any, /) -> int:
        """Writes the first of `data`; what buffers it comes again with the rest."""
        time.sleep(self.seconds)
        return super().write(memoryview(data)[:_PIECE])


def slow_disk(seconds: float = 0.01) -> Sabotage:
    """Makes each piece of an unfinished file, and each flush to the disk, take so long."""

    def spoil(_: int) -> None:
        open_file, fsync = Path.open, os.fsync

        def opened(path: Path, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if mode != "wb" or path.suffix != ".tmp":
                return open_file(path, mode, *args, **kwargs)
            file = _SlowFile(path, "w")
            file.seconds = seconds
            return io.BufferedWriter(file)

        def flushed(descriptor: int) -> None:
            time.sleep(seconds)
            fsync(descriptor)

        Path.open, os.fsync = opened, flushed  # type: ignore[method-assign,assignment]

    return spoil


def slow_items(builder: str, seconds: float, mark: Path) -> Sabotage:
    """Makes a loader of `videogn.build` give an item each `seconds`; a line of `mark` counts each.

    The mark is there before the loader is built.
    """

    def spoil(_: int) -> None:
        plain = getattr(build, builder)

        @wraps(plain)
        def built(*args: Any, **kwargs: Any) -> Iterator[Any]:
            mark.touch()
            return slowly(plain(*args, **kwargs))

        def slowly(items: Any) -> Iterator[Any]:
            for item in items:
                time.sleep(seconds)
                with mark.open("a") as file:
                    file.write(f"{getattr(item, 'row', '')}\n")
                yield item

        setattr(build, builder, built)

    return spoil


def in_worker(
    action: Callable[[], object], video: str, number: int = 1, *, after: Path
) -> Sabotage:
    """Lets a loader worker do `action` when it opens a video, the `number`-th time.

    Only openings count that come when the file `after` is there.
    """

    def spoil(_: int) -> None:
        plain, calls = build.open_video, 0

        def opened(path: Any, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            if Path(path).name == video and get_worker_info() is not None and after.exists():
                calls += 1
                if calls == number:
                    action()
            return plain(path, *args, **kwargs)

        build.open_video = opened

    return spoil


def signal_itself(number: int) -> Callable[[], None]:
    """Sends this process a signal."""
    return lambda: os.kill(os.getpid(), number)


def hang(*_: Any, **__: Any) -> None:
    """Does not come back."""
    deadline = time.monotonic() + HOURS
    while time.monotonic() < deadline:
        time.sleep(10)


def raises(error: BaseException) -> Callable[..., Any]:
    """Raises `error`, whatever it is called with."""

    def fail(*_: Any, **__: Any) -> Any:
        raise error

    return fail


def memory_error() -> None:
    """Has no memory left."""
    raise MemoryError


def exits(code: int) -> Callable[[], None]:
    """Ends this process without a word."""
    return partial(os._exit, code)
