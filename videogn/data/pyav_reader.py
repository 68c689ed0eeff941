"""The default reader: PyAV, exact for every container FFmpeg reads.

The file is demuxed once (2 % of the cost of decoding it) to learn the presentation time stamp (pts)
of every frame. Frames are asked for by pts, from the keyframe before, and what comes is compared
with what was asked: whenever a seek did not deliver what it should, decoding starts further ahead.

         keyframe              wanted               wanted
            v                    v                    v
    I  b  P I  b  P  b  P  b  P  b  P  b  P  b  P  b  P  b ...
            |................................|        read
               ^     ^     ^     ^     ^           of these not decoded: no frame refers to them
"""

from __future__ import annotations

import os
import time
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from os import PathLike
from pathlib import Path
from typing import NamedTuple, Self

import av
import numpy as np
from av.error import FFmpegError
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from videogn.data.containers import find_source
from videogn.data.decode import FrameMap, ReadStats, as_decode_error, check_indices
from videogn.data.frame_index import FrameIndex, IndexCache
from videogn.errors import VideoDecodeError

MAX_PIXELS = 4096 * 2304  # a frame above 4K is no clip to train on, and a cheap way to fill memory
MAX_FRAMES = 216_000  # one hour at 60 frames/s; bounds the index of a hostile file

# The formats FFmpeg may take a file for: none that names other files, or addresses.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,flv,asf,mpeg,ogg,h264,hevc"
# The codecs that videos are kept in: FFmpeg has hundreds more, and its known holes are among those.
_CODECS = (
    "h264,hevc,av1,libdav1d,vp8,vp9,mpeg4,mpeg1video,mpeg2video,mjpeg,theora,h263,flv,"
    "msmpeg4,msmpeg4v1,msmpeg4v2,wmv1,wmv2,wmv3,vc1,prores,ffv1"
)
# Where time stamps are no guide: absent (AVI, raw streams), or other ones after a seek (MPEG-PS).
_UNINDEXED_FORMATS = {"avi", "h264", "hevc", "mpeg"}
_UNINDEXED_CODECS = {"vp8"}  # some of its packets are never shown
# Where leaving out frames that nothing refers to was seen to change no other frame.
_SKIPPING_CODECS = {"h264", "hevc", "mpeg4", "mpeg2video"}
# Going on decoding over so few frames costs less than seeking and starting the decoder again.
_SEEK_FRAMES = 16
# Frames that a long read holds together: at least, and where no keyframe comes at most.
_BLOCK, _LONGEST_BLOCK = 32, 512

_cache = IndexCache()


def forget_indices() -> None:
    """Empties the memory of indices, as in a process that has opened nothing yet."""
    _cache.clear()


class _Packet(NamedTuple):
    """What the index needs of a compressed frame: its times in units of the stream, and flags."""

    pts: int | None
    dts: int | None
    is_key: bool
    is_hidden: bool  # before the beginning of an edit list: to be decoded but not shown
    is_corrupt: bool


class PyAVReader:
    """A `VideoReader` on PyAV; see the module's docstring.

    A file whose packets do not tell its frames (AVI, raw streams, missing or repeated time stamps,
    a start in the middle of a GOP) is decoded once on opening to count them, unless an index is
    given, and from its start at every read.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        root: Path | None = None,
        index: FrameIndex | None = None,
        timeout: float | None = None,
    ) -> None:
        self.path = os.fspath(path)
        self.stats = ReadStats()
        self._timeout, self._deadline = timeout, float("inf")
        self._rotation: int | None = None
        self._reformatter = VideoReformatter()  # one for all frames: its set-up costs a conversion
        with self._errors(), ExitStack() as on_error:
            self._source = find_source(self.path, root)
            self._open()
            on_error.callback(self.close)
            stream = self._stream()
            self.codec = stream.codec_context.name
            self.time_base = stream.time_base  # seconds that one unit of `index.pts` takes
            self.formats = frozenset(self._container.format.name.split(","))
            self.fps = float(stream.average_rate or stream.guessed_rate or 0)
            self.height, self.width = stream.codec_context.height, stream.codec_context.width
            self.index = self._usable(index) or self._make_index()
            self.num_frames = self.index.num_frames
            on_error.pop_all()
        # The position of every frame: its pts, or its number where time stamps are no guide.
        self._by_count = self.index.pts is None
        self._positions = (
            range(self.num_frames) if self.index.pts is None else self.index.pts.tolist()
        )

    @property
    def rotation(self) -> int:
        """See `VideoReader.rotation`; decodes the first frame if none has been decoded yet."""
        if self._rotation is None:
            self.frames([0])
        return self._rotation or 0

    def frames(self, indices: Sequence[int], each: FrameMap | None = None) -> np.ndarray:
        """See `VideoReader.frames`. The cost is decoding from the keyframe before the first one."""
        asked = check_indices(indices, self.num_frames, self.path)
        if not asked:
            return np.empty((0, self.height, self.width, 3), dtype=np.uint8)
        distinct, order = np.unique(asked, return_inverse=True)
        wanted = [self._positions[index] for index in distinct.tolist()]
        with self._errors():
            images = self._read(wanted, each)
        return images if np.array_equal(asked, distinct) else images[order]

    def stream(self, indices: Sequence[int], each: FrameMap | None = None) -> Iterator[np.ndarray]:
        """The frames at the strictly rising `indices`, one by one: uint8 (H, W, 3), as mapped.

        For long videos: memory holds one group of pictures, and no frame is decoded twice. See
        `frames` for `each` and what is raised.
        """
        asked = check_indices(indices, self.num_frames, self.path)
        if self._by_count:
            yield from self._stream_by_count(asked, each)
            return
        for block in self._blocks(asked):
            yield from self.frames(asked[block], each)

    def time(self, index: int) -> float:
        """When a frame is shown, in seconds after the first."""
        if self.index.pts is None or self.time_base is None:
            return index / self.fps if self.fps else float(index)
        return float((self.index.pts[index] - self.index.pts[0]) * self.time_base)

    def decode_all(self) -> Iterator[VideoFrame]:
        """Every frame from the first to the last, not converted; for whoever checks a file."""
        with self._errors():
            self._rewind()
            yield from self._decode()

    def close(self) -> None:
        """See `VideoReader.close`."""
        self._container.close()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _errors(self) -> ExitStack:
        """For a `with`: starts the clock, and makes one error of the libraries' many.

        PyAV raises IndexError for some damaged headers; a NUL in a path is a ValueError.
        """
        if self._timeout is not None:
            self._deadline = time.monotonic() + self._timeout
        stack = ExitStack()
        stack.enter_context(as_decode_error(self.path, FFmpegError, ValueError, IndexError))
        return stack

    def _open(self) -> None:
        """Opens the file for FFmpeg, its decoder limited in size and threads."""
        self._file = self._source.open() if self._source.in_archive else None
        self._container = av.open(
            self._file or self._source.path,
            "r",
            options={
                "protocol_whitelist": "" if self._source.in_archive else "file",
                "format_whitelist": _FORMATS,
                "codec_whitelist": _CODECS,
            },
        )
        with ExitStack() as on_error:
            on_error.callback(self.close)
            context = self._stream().codec_context
            if context.name not in _CODECS.split(","):
                raise VideoDecodeError(self.path, f"its codec {context.name} is not read")
            if context.width * context.height > MAX_PIXELS:
                size = f"{context.width}x{context.height}"
                raise VideoDecodeError(self.path, f"frames of {size} exceed {MAX_PIXELS} pixels")
            context.options = {"max_pixels": str(MAX_PIXELS)}  # the size may also change midway
            context.thread_type = "NONE"  # threads cost 12-25 % more; workers are the parallelism
            context.thread_count = 1
            on_error.pop_all()

    def _rewind(self) -> None:
        """Goes back to the start by opening the file anew: raw streams cannot seek."""
        self.close()
        self._open()

    def _stream(self) -> VideoStream:
        """The first stream of moving pictures."""
        for stream in self._container.streams.video:
            cover_image = stream.disposition & Disposition.attached_pic
            if stream.codec_context is not None and not cover_image:
                return stream
        raise VideoDecodeError(self.path, "has no video stream that can be decoded")

    def _packets(self) -> Iterator[av.Packet]:
        """The packets that hold data, from the present place to the end of the file."""
        stream = self._stream()
        for count, packet in enumerate(self._container.demux(stream)):
            if count > MAX_FRAMES:
                raise VideoDecodeError(self.path, f"has more than {MAX_FRAMES} frames")
            if time.monotonic() > self._deadline:
                raise VideoDecodeError(self.path, f"took more than {self._timeout:g} s to read")
            if packet.size:  # an empty one would end decoding: AVI has them in the middle
                yield packet

    # The index

    def _usable(self, given: FrameIndex | None) -> FrameIndex | None:
        """The index given, else the one remembered, if it is of this very file."""
        if given is not None and given.file_size == self._source.size:
            return given
        return _cache.get(self._source)

    def _make_index(self) -> FrameIndex:
        index = self._demux_index()
        if index.pts is None:
            self._rewind()
            count = sum(1 for _ in self._decode())
            index = FrameIndex(self._source.size, count, None)
        if not index.num_frames:
            raise VideoDecodeError(self.path, "holds no frame")
        _cache.put(self._source, index)
        return index

    def _demux_index(self) -> FrameIndex:
        """The index by the packets' time stamps; without `pts` and count if they are no guide."""
        size = self._source.size
        unknown = FrameIndex(size, 0, None)
        packets = [
            _Packet(p.pts, p.dts, p.is_keyframe, p.is_discard, p.is_corrupt)
            for p in self._packets()
        ]
        self._refuse_cut_file(packets)
        if self.formats & _UNINDEXED_FORMATS or self.codec in _UNINDEXED_CODECS or not packets:
            return unknown
        stamps = [p.pts for p in packets if p.pts is not None]
        if len(set(stamps)) < len(packets):  # missing or repeated
            return unknown
        if not packets[0].is_key or min(stamps) < stamps[0]:
            return unknown  # begins with frames that refer to something before the beginning
        shown = np.array(sorted(p.pts for p in packets if not p.is_hidden), np.int64)  # type: ignore[type-var]
        keys = [(p.pts, p.pts if p.dts is None else p.dts) for p in packets if p.is_key]
        return FrameIndex(
            size,
            len(shown),
            shown if len(shown) else None,
            sorted(keys),  # type: ignore[type-var]
            is_open=_has_open_gop(packets),
            is_trimmed=len(shown) < len(packets),
        )

    def _refuse_cut_file(self, packets: Sequence[_Packet]) -> None:
        """Raises where packets are seen to be missing.

        Only MP4 says in advance what follows; the other containers may be cut without a trace.
        """
        listed = len(self._stream().index_entries) if "mp4" in self.formats else 0
        if len(packets) < listed or any(packet.is_corrupt for packet in packets):
            found = f"{len(packets)} of {listed}" if listed else f"{len(packets)}"
            raise VideoDecodeError(self.path, f"is cut short or damaged ({found} frames found)")

    # Reading

    def _stream_by_count(self, asked: list[int], each: FrameMap | None) -> Iterator[np.ndarray]:
        """`stream` for a file that can only be decoded from its start: in one pass."""
        wanted = iter(asked)
        following = next(wanted, None)
        for count, frame in enumerate(self.decode_all()):
            if count == following:
                images = _Images(1, each, self.path)
                images.put(0, self._rgb(frame))
                yield images.array[0]
                following = next(wanted, None)
            if following is None:
                return
        raise VideoDecodeError(self.path, "a frame that its index lists cannot be decoded")

    def _blocks(self, asked: list[int]) -> list[slice]:
        """`asked` cut into blocks that begin at keyframes, so that none is decoded for two."""
        cuts, last = [0], 0
        for number, index in enumerate(asked):
            place, length = self._keyframe_before(self._positions[index]), number - cuts[-1]
            if length >= (_BLOCK if place != last else _LONGEST_BLOCK):
                cuts.append(number)
            last = place
        return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(asked)], strict=True)]

    def _read(self, wanted: list[int], each: FrameMap | None) -> np.ndarray:
        """uint8 (len(wanted), h, w, 3): the frames at the sorted positions `wanted`, mapped."""
        images = _Images(len(wanted), each, self.path)
        for part in self._parts(wanted):
            if not self._read_from_keyframe(wanted[part], images, part.start):
                self._rewind()
                if not self._collect(wanted[part], images, part.start, sparing=False):
                    raise VideoDecodeError(
                        self.path, "a frame that its index lists cannot be decoded"
                    )
        return images.array

    def _parts(self, wanted: list[int]) -> list[slice]:
        """`wanted` cut where a keyframe lies in a long gap, so that the gap need not be decoded."""
        if self._by_count:
            return [slice(0, len(wanted))]
        places = [self._keyframe_before(position) for position in wanted]
        cuts = [0]
        for number in range(1, len(wanted)):
            if places[number] != places[number - 1]:
                key = self.index.keyframes[places[number] - 1][0]
                before = bisect_right(self._positions, key)
                if before - bisect_right(self._positions, wanted[number - 1]) > _SEEK_FRAMES:
                    cuts.append(number)
        return [slice(a, b) for a, b in zip(cuts, [*cuts[1:], len(wanted)], strict=True)]

    def _keyframe_before(self, position: int) -> int:
        """The number, from 1, of the last keyframe not after `position`; 0 if there is none."""
        return bisect_right(self.index.keyframes, position, key=lambda key: key[0])

    def _read_from_keyframe(self, wanted: list[int], images: _Images, first: int) -> bool:
        """As `_collect`, from the last keyframe not after the first frame wanted."""
        place = self._keyframe_before(wanted[0])
        if self._by_count or not place:
            return False
        stream = self._stream()
        # MPEG-TS seeks by dts, all others by pts.
        for target in dict.fromkeys(self.index.keyframes[place - 1]):
            for sparing in (True, False):
                with suppress(FFmpegError):  # not every demuxer seeks, nor decoder starts there
                    self._container.seek(target, stream=stream)
                    if self._collect(wanted, images, first, sparing=sparing):
                        return True
        return False

    def _collect(self, wanted: list[int], images: _Images, first: int, *, sparing: bool) -> bool:
        """Puts the frames at the sorted positions `wanted` into `images`, from number `first` on.

        False if one does not come, as when a seek has landed behind it. Only frames that are wanted
        are converted, which is up to half the cost of reading; `sparing` decodes no others either
        but those that they refer to.
        """
        found = 0
        decoded = self._decode_only(wanted) if sparing else self._decode()
        for count, frame in enumerate(decoded):
            position = count if self._by_count else frame.pts
            if position is None or position > wanted[found]:
                return False
            if position < wanted[found]:
                continue
            images.put(first + found, self._rgb(frame))
            found += 1
            if found == len(wanted):
                return True
        return False

    def _decode(self) -> Iterator[VideoFrame]:
        """The frames from the present place to the end of the file, in order of presentation."""
        for packet in self._packets():
            for frame in packet.decode():
                self.stats.decoded += 1
                yield frame
        yield from self._drained()

    def _decode_only(self, wanted: list[int]) -> Iterator[VideoFrame]:
        """The frames with the time stamps `wanted`, and others that had to be decoded for them.

        Ends the decoder's work: seek before decoding anything else.
        """
        context = self._stream().codec_context
        skips = self.codec in _SKIPPING_CODECS
        missing, before = set(wanted), self.stats.decoded
        sent: list[int] = []
        last = None
        try:
            for packet in self._packets():
                sent.append(packet.pts or 0)
                if skips:
                    context.skip_frame = "DEFAULT" if packet.pts in missing else "NONREF"
                for frame in packet.decode():
                    self.stats.decoded, last = self.stats.decoded + 1, frame.pts
                    yield frame
                missing.discard(packet.pts)
                if not missing:  # no later packet is referred to; what is held back comes next
                    break
            for frame in self._drained():
                last = frame.pts
                yield frame
        finally:
            context.skip_frame = "DEFAULT"
            if last is not None:
                passed = sum(pts <= last for pts in sent)
                self.stats.skipped += passed - (self.stats.decoded - before)

    def _drained(self) -> Iterator[VideoFrame]:
        """The frames that the decoder still holds back to bring them into order."""
        for frame in self._stream().codec_context.decode(None):
            self.stats.decoded += 1
            yield frame

    def _rgb(self, frame: VideoFrame) -> np.ndarray:
        """uint8 (H, W, 3), a view of memory that the next call writes over."""
        if self._rotation is None:
            self._rotation = -frame.rotation % 360
        self.stats.converted += 1
        rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        plane = rgb.planes[0]
        rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
        return rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3)


class _Images:
    """The results of a read: one array, made when the first frame tells its size."""

    def __init__(self, count: int, each: FrameMap | None, path: str) -> None:
        self.array = np.empty(0, dtype=np.uint8)
        self._count, self._each, self._path = count, each, path
        self._source_shape: tuple[int, ...] = ()

    def put(self, number: int, frame: np.ndarray) -> None:
        if not self._source_shape:
            self._source_shape = frame.shape
        if frame.shape != self._source_shape:
            raise VideoDecodeError(self._path, "the size of its frames changes midway")
        image = frame if self._each is None else self._each(frame)
        if not self.array.size:
            self.array = np.empty((self._count, *image.shape), dtype=np.uint8)
        self.array[number] = image


def _has_open_gop(packets: Sequence[_Packet]) -> bool:
    """Whether a frame shown before a keyframe comes after it in the file."""
    key = None
    for packet in packets:
        if packet.is_key:
            key = packet.pts
        elif key is not None and packet.pts is not None and packet.pts < key:
            return True
    return False
