"""Exact random access to the frames of one video file.

`frames([i, j, ...])` gives the very frames that decoding from the beginning gives, in any order.
Seeking and counting alone is wrong somewhere in every library: after an edit list, in an open GOP,
in MPEG-TS, in AVI. So the reader demuxes the file once (2 % of the cost of decoding it), keeps the
presentation time stamp (pts) of every packet, asks for frames by pts, and decodes from the start
whenever a seek did not deliver what it should.
"""

from __future__ import annotations

import operator
import os
import re
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from videogn.errors import ConfigError, VideoDecodeError

MAX_PIXELS = 4096 * 2304  # a frame above 4K is no clip to train on, and a cheap way to fill memory
MAX_FRAMES = 216_000  # one hour at 60 frames/s; bounds the index of a hostile file

# The protocols and formats FFmpeg may use: no network, and no playlist that names other files.
_OPEN_OPTIONS = {
    "protocol_whitelist": "file",
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,asf,mpeg,ogg,"
    "h264,hevc",
}
# Where time stamps are no guide: absent (AVI, raw streams), or other ones after a seek (MPEG-PS).
_UNINDEXED_FORMATS = {"avi", "h264", "hevc", "mpeg"}
_UNINDEXED_CODECS = {"vp8"}  # some of its packets are never shown

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # two characters at least: C: is a drive
_MAGIC = {
    b"\x1aE\xdf\xa3": "Matroska, WebM",
    b"FLV": "Flash",
    b"OggS": "Ogg",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11": "ASF",
}
_MP4_BOXES = {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot", b"styp"}
_NOT_MOVING = {b"heic", b"heix", b"mif1", b"avif", b"crx ", b"jp2 ", b"M4A ", b"M4B "}


class VideoReader(Protocol):
    """Random access to the frames of one open video; not to be shared between threads.

    Attributes:
        num_frames: frames that decoding the whole file yields.
        fps: mean frames per second, 0.0 where the file does not tell.
    """

    num_frames: int
    fps: float

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """The frames at `indices`, in that order: uint8 (T, H, W, 3) RGB, as stored (no rotation).

        Indices may repeat and need no order. Raises IndexError for one outside
        [0, num_frames), VideoDecodeError when the file does not yield a frame.
        """
        ...

    def close(self) -> None:
        """Frees the file; may be called twice."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


def open_video(
    path: str | PathLike[str], *, root: Path | None = None, decoder: str = "pyav"
) -> VideoReader:
    """An open reader of the file at `path`, which must lie under `root` when that is given.

    `path` is taken as it is, not relative to `root`. Open it in the process that reads it.
    Raises VideoDecodeError when the file is no readable video, ConfigError for another decoder.
    """
    if decoder != "pyav":
        raise ConfigError(f"data.decoder: {decoder!r} is not a decoder; use pyav")
    return PyAVReader(path, root=root)


def has_scheme(path: str) -> bool:
    """Whether FFmpeg would read `path` as an address (`http:`, `concat:`) and not as a file."""
    return _SCHEME.match(path) is not None


def is_video(path: str | PathLike[str]) -> bool:
    """Whether a regular file begins like a video container, whatever its name.

    Raises OSError for a file that is missing or cannot be read.
    """
    path = Path(path)
    if not stat.S_ISREG(path.stat().st_mode):  # opening a FIFO would wait for ever
        return False
    with path.open("rb") as file:
        head = file.read(4 + 2 * 192 + 1)  # enough for three MPEG-TS packets
    if head[4:8] in _MP4_BOXES:
        return head[8:12] not in _NOT_MOVING
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    return head.startswith(tuple(_MAGIC)) or _is_mpeg_ts(head) or _is_start_code(head)


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


class _Packet(NamedTuple):
    """What the index needs of a compressed frame: its times in units of the stream, and flags."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_hidden: bool  # before the beginning of an edit list: to be decoded but not shown
    is_corrupt: bool


class PyAVReader:
    """A `VideoReader` on PyAV, exact for every container FFmpeg reads; see the module's docstring.

    A file whose packets do not tell its frames (AVI, raw streams, missing or repeated time stamps,
    a start in the middle of a GOP) is decoded once on opening to count them, and from its start
    at every read.
    """

    def __init__(self, path: str | PathLike[str], *, root: Path | None = None) -> None:
        self.path = os.fspath(path)
        self._reformatter = VideoReformatter()  # one for all frames: its set-up costs a conversion
        with _as_decode_error(self.path), ExitStack() as on_error:
            self._file = _safe_path(self.path, root)
            self._container = av.open(self._file, options=_OPEN_OPTIONS)
            on_error.callback(self.close)
            self._formats = set(self._container.format.name.split(","))
            stream = self._prepared_stream()
            self.fps = float(stream.average_rate or stream.guessed_rate or 0)
            self._height, self._width = stream.codec_context.height, stream.codec_context.width
            pts, self._keyframes = self._demux_index()  # keyframes: (pts, dts)
            self._by_count = pts is None
            # The position of every frame: its pts, or its number where time stamps are no guide.
            self._positions = range(self._count_frames()) if pts is None else pts
            self.num_frames = len(self._positions)
            if not self.num_frames:
                raise VideoDecodeError(self.path, "holds no frame")
            on_error.pop_all()

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """See `VideoReader.frames`. The cost is decoding from the keyframe before the first one."""
        asked = [operator.index(index) for index in indices]
        for index in asked:
            if not 0 <= index < self.num_frames:
                raise IndexError(f"{self.path}: frame {index} of {self.num_frames} frames")
        if not asked:
            return np.empty((0, self._height, self._width, 3), dtype=np.uint8)
        distinct, order = np.unique(asked, return_inverse=True)
        wanted = [self._positions[index] for index in distinct]
        with _as_decode_error(self.path):
            images = self._read_from_keyframe(wanted)
            if images is None:
                images = self._read_from_start(wanted)
        return images if np.array_equal(asked, distinct) else images[order]

    def close(self) -> None:
        """See `VideoReader.close`."""
        self._container.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _stream(self) -> VideoStream:
        """The first stream of moving pictures."""
        for stream in self._container.streams.video:
            cover_image = stream.disposition & Disposition.attached_pic
            if stream.codec_context is not None and not cover_image:
                return stream
        raise VideoDecodeError(self.path, "has no video stream that can be decoded")

    def _prepared_stream(self) -> VideoStream:
        """`_stream` of a container just opened, its decoder limited in size and threads."""
        stream = self._stream()
        context = stream.codec_context
        if context.width * context.height > MAX_PIXELS:
            size = f"{context.width}x{context.height}"
            raise VideoDecodeError(self.path, f"frames of {size} exceed {MAX_PIXELS} pixels")
        context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may also change midway
        context.thread_type = "NONE"  # threads cost 12-25 % more CPU; workers are the parallelism
        context.thread_count = 1
        return stream

    def _rewind(self) -> None:
        """Goes back to the start by opening the file anew: raw streams cannot seek."""
        self.close()
        self._container = av.open(self._file, options=_OPEN_OPTIONS)
        self._prepared_stream()

    def _packets(self) -> Iterator[av.Packet]:
        """The packets that hold data, from the present place to the end of the file."""
        stream = self._stream()
        for count, packet in enumerate(self._container.demux(stream)):
            if count > MAX_FRAMES:
                raise VideoDecodeError(self.path, f"has more than {MAX_FRAMES} frames")
            if packet.size:  # an empty one would end decoding: AVI has them in the middle
                yield packet

    def _demux_index(self) -> tuple[list[int] | None, list[tuple[int, int]]]:
        """The sorted pts of all frames, None if they are no guide; (pts, dts) of the keyframes."""
        packets = [
            _Packet(p.pts, p.dts, p.is_keyframe, p.is_discard, p.is_corrupt)
            for p in self._packets()
        ]
        self._refuse_cut_file(packets)
        codec = self._stream().codec_context.name
        if self._formats & _UNINDEXED_FORMATS or codec in _UNINDEXED_CODECS or not packets:
            return None, []
        stamps = [p.pts for p in packets if p.pts is not None]
        if len(set(stamps)) < len(packets):  # missing or repeated
            return None, []
        if not packets[0].is_key or min(stamps) < stamps[0]:
            return None, []  # begins with frames that refer to something before the beginning
        shown = sorted(p.pts for p in packets if p.pts is not None and not p.is_hidden)
        keys = [(p.pts, p.dts) for p in packets if p.pts is not None and p.is_key]
        return shown, sorted((pts, pts if dts is None else dts) for pts, dts in keys)

    def _refuse_cut_file(self, packets: Sequence[_Packet]) -> None:
        """Raises where packets are seen to be missing.

        Only MP4 says in advance what follows; the other containers may be cut without a trace.
        """
        listed = len(self._stream().index_entries) if "mp4" in self._formats else 0
        if len(packets) < listed or any(packet.is_corrupt for packet in packets):
            found = f"{len(packets)} of {listed}" if listed else f"{len(packets)}"
            raise VideoDecodeError(self.path, f"is cut short or damaged ({found} frames found)")

    def _count_frames(self) -> int:
        self._rewind()
        return sum(1 for _ in self._decode())

    def _decode(self) -> Iterator[VideoFrame]:
        """All frames from the present place to the end of the file, in order of presentation."""
        for packet in self._packets():
            yield from packet.decode()
        yield from self._stream().codec_context.decode(None)  # those still held back

    def _read_from_keyframe(self, wanted: list[int]) -> np.ndarray | None:
        """As `_collect`, from the last keyframe not after the first frame wanted."""
        place = bisect_right(self._keyframes, wanted[0], key=lambda key: key[0])
        if self._by_count or not place:
            return None
        stream = self._stream()
        for target in self._keyframes[place - 1]:  # MPEG-TS seeks by dts, all others by pts
            with suppress(FFmpegError):  # not every demuxer seeks, nor decoder starts there
                self._container.seek(target, stream=stream)
                images = self._collect(wanted)
                if images is not None:
                    return images
        return None

    def _read_from_start(self, wanted: list[int]) -> np.ndarray:
        """As `_collect`, but a frame that does not come is an error."""
        self._rewind()
        images = self._collect(wanted)
        if images is None:
            raise VideoDecodeError(self.path, "a frame that its index lists cannot be decoded")
        return images

    def _collect(self, wanted: list[int]) -> np.ndarray | None:
        """uint8 (len(wanted), H, W, 3): the frames at the sorted positions `wanted`.

        None if one does not come, as when a seek has landed behind it. Only frames that are wanted
        are converted, which is up to half the cost of reading.
        """
        images, found = np.empty(0, dtype=np.uint8), 0
        for count, frame in enumerate(self._decode()):
            position = count if self._by_count else frame.pts
            if position is None or position > wanted[found]:
                return None
            if position < wanted[found]:
                continue
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            if not found:
                images = np.empty((len(wanted), *rgb.shape), dtype=np.uint8)
            if rgb.shape != images.shape[1:]:
                raise VideoDecodeError(self.path, "the size of its frames changes midway")
            images[found] = rgb
            found += 1
            if found == len(wanted):
                return images
        return None


def _safe_path(path: str, root: Path | None) -> str:
    """The real path of a regular file that begins like a video and lies under `root`."""
    if has_scheme(path):
        raise VideoDecodeError(path, "is an address; only files are read")
    real = os.path.realpath(path)
    if root is not None and not Path(real).is_relative_to(os.path.realpath(root)):
        raise VideoDecodeError(path, f"lies outside the video root {root}")
    if not stat.S_ISREG(Path(real).stat().st_mode):
        raise VideoDecodeError(path, "is not a regular file")
    if not is_video(real):
        raise VideoDecodeError(path, "does not begin like any known video container")
    return real


@contextmanager
def _as_decode_error(path: str) -> Iterator[None]:
    """Turns what FFmpeg, PyAV and the file system raise into a VideoDecodeError."""
    try:
        yield
    except (FFmpegError, OSError, ValueError, IndexError) as error:
        # PyAV raises IndexError for some damaged headers; a NUL in a path is a ValueError.
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoDecodeError(path, f"cannot be read: {reason}") from error
