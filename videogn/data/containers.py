"""Which files are opened at all: regular files under the video root that begin like a video.

FFmpeg decides by content what a file is, and some contents make it read other files or the network
(playlists, `ffconcat`, SDP), so the content is looked at before FFmpeg sees the file.
"""

from __future__ import annotations

import os
import re
import stat
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple

from videogn.data.tar import Member, find_member, split_member
from videogn.errors import VideoDecodeError

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:(?!:)")  # two letters at least: C: is a drive
_EBML, _SEGMENT = b"\x1aE\xdf\xa3", b"\x18S\x80g"
_MAGIC = {
    _EBML: "Matroska, WebM",
    b"FLV": "Flash",
    b"OggS": "Ogg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "ASF",
}
_SIZE_SLACK = 64  # bytes; some writers of AVI count their header twice, and no frame fits in it
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_NOT_MOVING = {b"heic", b"heix", b"mif1", b"avif", b"crx ", b"jp2 ", b"M4A ", b"M4B "}
_HEAD = 4 + 2 * 192 + 1  # bytes that `begins_like_video` looks at: three MPEG-TS packets


class Source(NamedTuple):
    """A video that may be opened.

    Attributes:
        path: real path of the file, or of the tar archive that holds it.
        offset: where the video begins in that file, bytes.
        size: of the video, bytes.
        mtime_ns: of the file.
        in_archive: whether the file is an archive.
    """

    path: str
    offset: int
    size: int
    mtime_ns: int
    in_archive: bool

    def open(self) -> BinaryIO:
        """A file object of the video's bytes alone."""
        if self.in_archive:
            return Member(self.path, self.offset, self.size)  # type: ignore[return-value]
        return Path(self.path).open("rb")


def find_source(path: str | PathLike[str], root: Path | None = None) -> Source:
    """Where the video `path` is read from, a file or `archive.tar::member`.

    Raises VideoDecodeError when it lies outside `root`, is an address, is no regular file or does
    not begin like a video; OSError when it is missing or cannot be read.
    """
    path = os.fspath(path)
    if has_scheme(path):
        raise VideoDecodeError(path, "is an address; only files are read")
    archive = split_member(path)
    real = os.path.realpath(archive[0] if archive else path)
    if root is not None and not Path(real).is_relative_to(os.path.realpath(root)):
        raise VideoDecodeError(path, f"lies outside the video root {root}")
    status = Path(real).stat()
    if not stat.S_ISREG(status.st_mode):  # opening a FIFO would wait for ever
        raise VideoDecodeError(path, "is not a regular file")
    offset, size = find_member(real, archive[1]) if archive else (0, status.st_size)
    source = Source(real, offset, size, status.st_mtime_ns, archive is not None)
    with source.open() as file:
        head = file.read(_HEAD)
    if not begins_like_video(head):
        raise VideoDecodeError(path, "does not begin like any known video container")
    declared = declared_size(head)
    if declared is not None and declared > size + _SIZE_SLACK:
        raise VideoDecodeError(path, f"is cut short ({size} of {declared} bytes)")
    return source


def has_scheme(path: str) -> bool:
    """Whether FFmpeg would read `path` as an address (`http:`, `concat:`) and not as a file."""
    return _SCHEME.match(path) is not None


def is_video(path: str | PathLike[str]) -> bool:
    """Whether a regular file begins like a video container, whatever its name.

    Raises OSError for a file that is missing or cannot be read.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):
        return False
    with path.open("rb") as file:
        return begins_like_video(file.read(_HEAD))


def begins_like_video(head: bytes) -> bool:
    """Whether the first bytes of a file, some 400 of them, are those of a video container."""
    if head[4:8] in _MP4_BOXES:
        return head[8:12] not in _NOT_MOVING
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    return head.startswith(tuple(_MAGIC)) or _is_mpeg_ts(head) or _is_start_code(head)


def declared_size(head: bytes) -> int | None:
    """The bytes that a file beginning with `head` has when it is whole, where AVI and Matroska say.

    MP4 is known to be whole by the packets it lists; the other containers say nothing.
    """
    if head[:4] == b"RIFF":
        return 8 + int.from_bytes(head[4:8], "little")
    if head.startswith(_EBML):
        size, at = _ebml_size(head, 4)
        segment = at + (size or 0)
        if head[segment : segment + 4] == _SEGMENT:
            size, at = _ebml_size(head, segment + 4)
            return None if size is None else at + size
    return None


def _ebml_size(head: bytes, at: int) -> tuple[int | None, int]:
    """The size that begins at `at`, None where it is left open, and the place after it."""
    first = head[at] if at < len(head) else 0
    length = 9 - first.bit_length()  # the number of leading zeros tells the length
    value = int.from_bytes(head[at : at + length], "big") & ((1 << 7 * length) - 1)
    is_open = length > 8 or value == (1 << 7 * length) - 1
    return None if is_open else value, at + length


def _is_mpeg_ts(head: bytes) -> bool:
    """Whether sync bytes stand at the distance of plain (188) or time-stamped (192) packets."""
    plain = head[0:377:188]
    stamped = head[4:389:192]
    return b"\x47\x47\x47" in (plain, stamped)


def _is_start_code(head: bytes) -> bool:
    """Whether an MPEG program stream or a raw H.264 / HEVC stream (Annex B) begins here."""
    code, _, rest = head[:5].partition(b"\x00\x00\x01")
    if code not in (b"", b"\x00") or not rest:
        return False
    return rest[0] == 0xBA or 0 < rest[0] < 0x80  # the first bit of a NAL unit is 0
