"""One archive of videos -> a folder, or a plain tar, of its videos; never trusts the archive."""

from __future__ import annotations

import gzip
import io
import os
import shutil
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO, Protocol

from videogn.data.tar import HEADER_ERRORS, walk_tar
from videogn.errors import DataError

SUFFIXES = (".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".flv", ".mpg", ".mpeg", ".3gp", ".ts")
_MAX_FILE = 2 << 30  # bytes; a clip of ten seconds in 4K has 0.1 GB
_MAX_NAME = 200  # bytes of one part of a path; file systems take 255, and temporary names add some
_MAX_DEPTH = 8
_MAX_GROWTH = 20  # times its own size that an archive may unpack to; videos hardly shrink
_MAX_SLACK = 1 << 30  # bytes that a small archive may unpack to all the same
_MAX_LISTED = 1000  # members left out that are named; the others are counted
_CHUNK = 1 << 20
_GZIP = b"\x1f\x8b"
_OTHERS = (b"BZh", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"PK\x03\x04", b"Rar!")


@dataclass
class Contents:
    """What was taken out of an archive.

    Attributes:
        files: the number of videos.
        bytes: what they take.
        left_out: members that were not taken, with the reason; at most 1,000 of them.
        num_left_out: how many there were.
    """

    files: int = 0
    bytes: int = 0
    left_out: dict[str, str] = field(default_factory=dict)
    num_left_out: int = 0

    def leave_out(self, name: str, reason: str) -> None:
        """Lists a member that was not taken."""
        self.num_left_out += 1
        if len(self.left_out) < _MAX_LISTED:
            self.left_out[name] = reason


def unpack_archive(archive: Path, target: Path, *, as_tar: bool = False) -> Contents:
    """Writes the videos of a `.tar.gz` or `.tar` to the folder `target`, or to a plain tar there.

    Whether it is compressed the content decides, not the name. `target` appears whole or not at
    all, and replaces what was there. Only regular files named like a video are taken, under the
    path they have in the archive; members that are links, devices or sparse, whose path is absolute
    or leads out, or that are larger than 2 GiB, are left out. Raises DataError for an archive that
    is damaged, cut short or made to fill the disk, OSError when `target` cannot be written.
    """
    contents = Contents()
    with _replacing(target, as_tar=as_tar) as sink, _archive_errors(archive):
        limit = _MAX_GROWTH * archive.stat().st_size + _MAX_SLACK
        with _opened(archive) as file:
            for member in walk_tar(file):
                stored = 0 if member.issparse() else member.size
                if member.offset_data + stored > limit:
                    raise tarfile.ReadError(f"it would unpack to more than {limit} bytes")
                if member.isdir():
                    continue
                reason = why_left_out(member)
                if reason:
                    contents.leave_out(member.name, reason)
                    continue
                file.seek(member.offset_data)
                sink.add(PurePosixPath(member.name), member.size, file)
                contents.files += 1
                contents.bytes += member.size
            _read_to_the_end(file)
    return contents


def why_left_out(member: tarfile.TarInfo) -> str:
    """The reason not to unpack `member`, empty for a regular file named like a video."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        return "its path leads out of the archive"
    if not member.isreg() or member.issparse():
        return "not a regular file"
    if any(ord(letter) < 32 or letter == "\\" for letter in member.name):
        return "its name holds a control character or a backslash"
    try:
        longest = max((len(part.encode()) for part in path.parts), default=0)
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if not 0 < longest <= _MAX_NAME or len(path.parts) > _MAX_DEPTH:
        return f"its name is too long (a part of {longest} bytes, {len(path.parts)} parts)"
    if path.suffix.lower() not in SUFFIXES:
        return "not named like a video"
    if path.name.startswith("._"):  # what macOS stores beside every file
        return "not named like a video"
    if member.size > _MAX_FILE:
        return f"larger than {_MAX_FILE} bytes"
    return ""


class _Sink(Protocol):
    """Where videos are written to."""

    def add(self, name: PurePosixPath, size: int, file: BinaryIO) -> None:
        """Stores the next `size` bytes of `file` under `name`."""
        ...

    def finish(self) -> None:
        """Returns when all is on the disk."""
        ...


class _Folder:
    """A folder that is new, so that no link lies in it."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self._path = path
        self._written: set[Path] = set()

    def add(self, name: PurePosixPath, size: int, file: BinaryIO) -> None:
        path = self._path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as out:
            _copy(file, out, size)
        self._written.add(path)

    def finish(self) -> None:
        """Syncs in the end and not file by file: by then most is on the disk already."""
        for path in self._written:
            _sync(path)
        for folder in {path.parent for path in self._written} | {self._path}:
            _sync(folder)


class _Tar:
    """A plain tar."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._tar = tarfile.TarFile(path, "x", format=tarfile.GNU_FORMAT)

    def add(self, name: PurePosixPath, size: int, file: BinaryIO) -> None:
        info = tarfile.TarInfo(str(name))
        info.size = size  # and no time or owner: the same videos give the same bytes
        self._tar.addfile(info, _Exactly(file, size))  # type: ignore[arg-type]

    def finish(self) -> None:
        self._tar.close()
        _sync(self._path)


class _Exactly:
    """What tarfile reads a member from: an early end is the archive's fault, not the disk's."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = self._file.read(size)
        if len(data) < size:
            raise EOFError("a file is cut short")
        self._left -= size
        return data


@contextmanager
def _replacing(target: Path, *, as_tar: bool) -> Iterator[_Sink]:
    """A sink whose content becomes `target` in the end, unless there is an error."""
    remove_leftovers(target)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        sink = _Tar(temporary) if as_tar else _Folder(temporary)
        yield sink
        sink.finish()
        _remove(target)
        temporary.rename(target)
        _sync(target.parent)
    finally:
        _remove(temporary)


def remove_leftovers(target: Path) -> None:
    """Removes what an interrupted unpacking to `target` has left beside it."""
    if target.parent.is_dir():
        prefix = f".{target.name}."
        for path in target.parent.iterdir():
            if path.name.startswith(prefix) and path.name.endswith(".part"):
                _remove(path)


@contextmanager
def _opened(archive: Path) -> Iterator[BinaryIO]:
    """The tar inside `archive`, unpacked on the way if it begins like a gzip file."""
    with archive.open("rb") as raw:
        magic = raw.read(6)
        raw.seek(0)
        if magic.startswith(_OTHERS):
            raise tarfile.ReadError("it is packed with something else than gzip; unpack it first")
        if not magic.startswith(_GZIP):
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as file:
            yield file  # type: ignore[misc]


@contextmanager
def _archive_errors(archive: Path) -> Iterator[None]:
    """Turns what reading a damaged archive raises into a DataError; other OSErrors pass."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile, *HEADER_ERRORS) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); download it again") from error


def _read_to_the_end(file: BinaryIO) -> None:
    """Reads what follows the end of the tar: padding; then gzip compares its checksum."""
    for _ in range(_MAX_SLACK // _CHUNK):
        data = file.read(_CHUNK)
        if not data:
            return
        if data.count(0) != len(data):
            break
    raise tarfile.ReadError("it goes on after the end of its tar")


def _copy(file: BinaryIO, out: io.BufferedWriter, size: int) -> None:
    while size:
        data = file.read(min(size, _CHUNK))
        if not data:
            raise EOFError("a file is cut short")
        out.write(data)
        size -= len(data)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
