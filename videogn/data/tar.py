"""Videos inside uncompressed tar files: where a member lies, and a file object that reads it.

A video in a tar is written `shards/part_7.tar::abseiling/x.mp4`. A shard is one file where its
members would be a thousand, which is what clusters that count files ask for. Only a plain tar
gives random access: in a compressed one everything before a member has to be unpacked first.
"""

from __future__ import annotations

import io
import os
import re
import stat
import tarfile
import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from videogn.errors import VideoDecodeError

MAX_MEMBERS = 1_000_000  # bounds the index of a hostile file; an official Kinetics shard has 1,000
_MAX_HEADER = 1 << 16  # bytes; long names and extended headers are far below
_MAX_CACHED = 64 << 20  # bytes of indexes a process keeps; all of Kinetics-400 takes 14 MB
_MEMBER = re.compile(r"\.(?:tar|tar\.gz|tgz)::", re.IGNORECASE)
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd")  # gzip, bzip2, xz, zstd
# What tarfile raises for headers that are damaged or were made to harm.
HEADER_ERRORS = (tarfile.TarError, ValueError, RecursionError)


class Place(NamedTuple):
    """Where the bytes of a member lie in its tar: the first one, and how many."""

    offset: int
    size: int


def split_member(path: str) -> tuple[str, str] | None:
    """`a/b.tar::c.mp4` -> ("a/b.tar", "c.mp4"); None for the path of a plain file.

    The first `::` that ends the name of a tar counts, so that a member may hold `::` too.
    """
    match = _MEMBER.search(path)
    if match is None:
        return None
    return path[: match.end() - 2], path[match.end() :]


def find_member(tar: str, member: str) -> Place:
    """The place of the regular file `member` in the uncompressed tar at the path `tar`.

    The tar's headers are read on the first call, and again when its size or time has changed. Of
    several members of one name the last counts, as for `tar x`. Links, devices and sparse files
    count as absent. Raises VideoDecodeError for a tar that cannot be read and for no such member.
    """
    try:
        index = _index_of(tar)
    except (OSError, *HEADER_ERRORS) as error:  # a NUL in the path is a ValueError
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoDecodeError(f"{tar}::{member}", f"the tar cannot be read: {reason}") from error
    place = index.find(member)
    if place is None:
        damage = f" ({index.damage})" if index.damage else ""
        raise VideoDecodeError(f"{tar}::{member}", f"the tar holds no such regular file{damage}")
    return place


def list_members(tar: str) -> list[tuple[str, Place]]:
    """The regular files of an uncompressed tar with their places, in the order they are stored.

    Of several of one name only the last is listed. Raises OSError, and tarfile.TarError or
    ValueError, for a tar that is compressed, damaged or cut short.
    """
    places, damage = _scan(tar)
    if damage:
        raise tarfile.ReadError(damage)
    return list(places.items())


def walk_tar(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Every member of the tar that begins at the start of `file`, in the order they are stored.

    What the caller may read of `file` in between is the data of the last one: seek to its
    `offset_data` first. Unlike iterating a TarFile this ends only at the mark that ends a tar, and
    raises tarfile.ReadError or one of HEADER_ERRORS where that mark is missing, a header is
    damaged, or headers are made to fill memory or to be read in circles.
    """
    headers = _Headers(file)
    tar = tarfile.TarFile(fileobj=headers, mode="r")  # type: ignore[arg-type]
    end = count = 0
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined]  # they would be kept, a kilobyte each
        count += 1
        if member.size < 0 or tar.offset <= end:
            raise tarfile.ReadError(f"member {count} has a size of {member.size} bytes")
        if count > MAX_MEMBERS:
            raise tarfile.ReadError(f"it has more than {MAX_MEMBERS} members")
        end = tar.offset
        yield member
    if headers.last != bytes(tarfile.BLOCKSIZE):
        what = "is damaged" if headers.last else "is cut short"
        raise tarfile.ReadError(f"the tar {what} after member {count}, at byte {end}")


class Member(io.RawIOBase):
    """A read-only, seekable view of `size` bytes from `offset` on of the file at `path`.

    It never reads outside that window. The position is its own, so that a copy in a forked process
    does not disturb it.
    """

    def __init__(self, path: str, offset: int, size: int) -> None:
        super().__init__()
        self._window = Place(offset, size)
        self._position = 0
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a FIFO must not wait for a writer

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """The number of bytes read into `buffer`, 0 at the end of the window."""
        self._check_open()
        wanted = min(len(buffer), max(0, self._window.size - self._position))
        data = os.pread(self._fd, wanted, self._window.offset + self._position) if wanted else b""
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """The new position, counted from the start of the window; ValueError before that."""
        self._check_open()
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._window.size}
        if whence not in base or base[whence] + offset < 0:
            raise ValueError(f"cannot seek to {offset} from {whence}")
        self._position = base[whence] + offset
        return self._position

    def tell(self) -> int:
        """The position, counted from the start of the window."""
        self._check_open()
        return self._position

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def close(self) -> None:
        """Closes the file; may be called twice."""
        if not self.closed:
            os.close(self._fd)
        super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("reads from a member that is closed")


@dataclass(frozen=True)
class _Index:
    """The members of one tar, packed: a dict would take ten times the memory.

    Attributes:
        names: the names, UTF-8, sorted, one after the other.
        ends: int64 (N + 1,): where each name begins in `names`, and the last one ends.
        places: int64 (N, 2): offset and size.
        damage: why there may be more than could be read; empty for a whole tar.
    """

    names: bytes
    ends: np.ndarray
    places: np.ndarray
    damage: str

    def find(self, member: str) -> Place | None:
        """The place of `member`."""
        name = _encoded(member)
        at = bisect_left(range(len(self.places)), name, key=self._name)
        if at == len(self.places) or self._name(at) != name:
            return None
        offset, size = self.places[at].tolist()
        return Place(offset, size)

    @property
    def nbytes(self) -> int:
        """Memory taken, in bytes, all objects counted."""
        return len(self.names) + self.ends.nbytes + self.places.nbytes + 1024

    def _name(self, at: int) -> bytes:
        return self.names[self.ends[at] : self.ends[at + 1]]


class _Headers:
    """What tarfile reads headers through: refuses to read as much as a header may claim to be.

    Attributes:
        last: what was read last; at the end of a tar the block of zeros.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.last = b""

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER:
            raise tarfile.ReadError(f"a header claims to be {size} bytes long")
        self.last = self._file.read(size)
        return self.last

    def seek(self, position: int) -> int:
        if position < 0:
            raise tarfile.ReadError(f"a header points to byte {position}")
        return self._file.seek(position)

    def tell(self) -> int:
        return self._file.tell()


# By path: size and time in ns of the tar that was indexed, and its index; the last used are last.
_indexes: dict[str, tuple[tuple[int, int], _Index]] = {}
_lock = threading.Lock()  # held for moments only, never while a tar is read


def _index_of(tar: str) -> _Index:
    """The index of the tar, kept for as long as the tar stays the same."""
    status = Path(tar).stat()
    stamp = (status.st_size, status.st_mtime_ns)
    with _lock:
        known = _indexes.pop(tar, None)
        if known is not None and known[0] == stamp:
            _indexes[tar] = known
            return known[1]
    places, damage = _scan(tar)
    index = _packed(places, damage)
    with _lock:
        _indexes[tar] = (stamp, index)
        while sum(kept.nbytes for _, kept in _indexes.values()) > _MAX_CACHED and len(_indexes) > 1:
            del _indexes[next(iter(_indexes))]
    return index


def _scan(tar: str) -> tuple[dict[str, Place], str]:
    """The regular files of the tar by name, and why reading ended early, empty if it did not."""
    status = Path(tar).stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
        raise tarfile.ReadError("it is not a regular file")
    places: dict[str, Place] = {}
    # Unbuffered: headers lie a video apart, and reading ahead would read a part of each video.
    with Path(tar).open("rb", buffering=0) as file:
        if file.read(6).startswith(_COMPRESSED):
            raise tarfile.ReadError(
                "it is compressed, which allows no random access; unpack it with `gunzip`, or with "
                "`python -m data_prep k400` if it is of Kinetics-400"
            )
        file.seek(0)
        try:
            for member in walk_tar(file):
                places.pop(member.name, None)
                whole = member.offset_data + member.size <= status.st_size
                if member.isreg() and not member.issparse() and whole:
                    places[member.name] = Place(member.offset_data, member.size)
        except HEADER_ERRORS as error:
            if not places:
                raise
            return places, str(error)
    return places, ""


def _packed(places: dict[str, Place], damage: str) -> _Index:
    names = sorted((_encoded(name), place) for name, place in places.items())
    return _Index(
        names=b"".join(name for name, _ in names),
        ends=np.cumsum([0, *(len(name) for name, _ in names)], dtype=np.int64),
        places=np.array([place for _, place in names], dtype=np.int64).reshape(-1, 2),
        damage=damage,
    )


def _encoded(name: str) -> bytes:
    """`name` in UTF-8; tarfile gives bytes that are none as lone surrogates."""
    return name.encode("utf-8", "surrogatepass")
