"""The journal of long work: one JSON line for each item done, appended and never rewritten.

A killed process loses no line that was written; a line that it left torn is dropped by the next
one. `verify.jsonl` may have parts `verify.3-of-16.jsonl`, one for each machine that shares the
work: they are read together, and of two records of one item the newer counts.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NamedTuple

if sys.platform != "win32":
    import fcntl

from videogn.errors import DataError

_SHARD = re.compile(r"\.(\d+)-of-(\d+)$")
_TAIL = 1 << 16  # bytes read at a time in search of the last whole line


class Stamp(NamedTuple):
    """What tells that a file has changed: its size in bytes and its time of modification."""

    size: int
    mtime_ns: int


@dataclass(frozen=True)
class Record:
    """What became of one item.

    Attributes:
        item: its name, mostly a path.
        stamp: of its file before the work; None for a file that is missing.
        ok: whether the work succeeded.
        kind: why not, in a word or two to count by; "" when it did.
        error: why not, exactly.
        seconds: the work took.
        time: when it ended, in seconds since 1970.
        values: what the work found, by name.
    """

    item: str
    stamp: Stamp | None
    ok: bool = True
    kind: str = ""
    error: str = ""
    seconds: float = 0.0
    time: float = 0.0
    values: Mapping[str, Any] = field(default_factory=dict)

    def to_line(self) -> bytes:
        """The line of the journal, in ASCII; ValueError when `values` are no JSON."""
        line = {
            "path": self.item,
            "ok": self.ok,
            "kind": self.kind,
            "error": self.error,
            **self.values,
            "stamp": self.stamp,
            "seconds": round(self.seconds, 3),
            "time": round(self.time, 3),
        }
        return json.dumps(line, allow_nan=False).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Record | None:
        """The record on a line; None for one that is torn or damaged."""
        try:
            values = json.loads(line)
            stamp = values.pop("stamp")
            return cls(
                item=values.pop("path"),
                stamp=None if stamp is None else Stamp(*map(int, stamp)),
                ok=values.pop("ok"),
                kind=values.pop("kind"),
                error=values.pop("error"),
                seconds=values.pop("seconds"),
                time=values.pop("time"),
                values=values,
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None


class _Place(NamedTuple):
    file: Path
    offset: int
    time: float
    ok: bool


class Records(Mapping[str, Record]):
    """The newest record of each item in `journal` and in the journals of its shards.

    Only places are kept in memory, about 200 bytes an item; a record is read when it is asked for.
    """

    def __init__(self, journal: Path) -> None:
        self._places: dict[str, _Place] = {}
        self._open: tuple[Path, IO[bytes]] | None = None  # the file read last
        for file in journal_files(journal):
            for offset, record in _scan(file):
                place = self._places.get(record.item)
                if place is None or place.time <= record.time:
                    self._places[record.item] = _Place(file, offset, record.time, record.ok)

    def __getitem__(self, item: str) -> Record:
        place = self._places[item]
        if self._open is None or self._open[0] != place.file:
            self.close()
            self._open = place.file, place.file.open("rb")
        file = self._open[1]
        file.seek(place.offset)
        record = Record.from_line(file.readline())
        if record is None:
            raise DataError(f"{place.file}: was changed while it was read; run the command again")
        return record

    def is_bad(self, item: str) -> bool:
        """Whether the work on `item` is on record as failed; the journal is not read for it."""
        return item in self._places and not self._places[item].ok

    def __contains__(self, item: object) -> bool:
        return item in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def close(self) -> None:
        """Closes the file read last; a later look-up opens it again."""
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def __del__(self) -> None:
        self.close()


def shard_journal(journal: Path, shard: tuple[int, int]) -> Path:
    """`verify.jsonl`, (3, 16) -> `verify.3-of-16.jsonl`; of one shard, the journal itself."""
    number, total = shard
    return journal if total == 1 else journal.with_stem(f"{journal.stem}.{number}-of-{total}")


def journal_files(journal: Path) -> list[Path]:
    """The journal that `journal` is, or is a shard of, with all its shards: those that exist."""
    stem = _SHARD.sub("", journal.stem)
    if not journal.parent.is_dir():
        return []
    return sorted(
        file
        for file in journal.parent.iterdir()
        if file.suffix == journal.suffix and _SHARD.sub("", file.stem) == stem and file.is_file()
    )


def take_shard(items: Sequence[str], shard: tuple[int, int]) -> list[str]:
    """The items of the i-th of n shards, by their names: the same whatever else is in the list."""
    number, total = shard
    if total == 1:
        return list(items)
    return [item for item in items if zlib.crc32(os.fsencode(item)) % total == number - 1]


@contextmanager
def appending(journal: Path) -> Iterator[IO[bytes]]:
    """Opens `journal` for whole lines at its end, unbuffered; DataError if another process has it.

    A torn last line is cut off first.
    """
    try:
        file = journal.open("ab+", buffering=0)
    except OSError as error:
        raise DataError(
            f"{journal}: cannot be written ({error.strerror}); the results go there"
        ) from error
    with file:
        _lock(file, journal)
        _drop_torn_line(file)
        yield file
        os.fsync(file.fileno())


def _lock(file: IO[bytes], journal: Path) -> None:
    if sys.platform == "win32":
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise DataError(
            f"{journal}: another process is writing it; wait for its end, or share the work with "
            "--shard"
        ) from error
    except OSError:  # a file system without locks: nobody can be kept out
        return


def _drop_torn_line(file: IO[bytes]) -> None:
    end = kept = file.seek(0, os.SEEK_END)
    while kept:
        start = max(0, kept - _TAIL)
        file.seek(start)
        newline = file.read(kept - start).rfind(b"\n")
        if newline >= 0:
            kept = start + newline + 1
            break
        kept = start
    if kept < end:
        file.truncate(kept)


def _scan(file: Path) -> Iterator[tuple[int, Record]]:
    """The records of one journal with their offsets in bytes."""
    offset = 0
    with file.open("rb") as lines:
        for line in lines:
            record = Record.from_line(line) if line.endswith(b"\n") else None
            if record is not None:
                yield offset, record
            offset += len(line)
