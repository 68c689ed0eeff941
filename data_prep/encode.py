"""Write the frames of one video anew: smaller, with closed GOPs, upright, at the same times."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import OutputContainer
from av.error import FFmpegError
from av.video.frame import PictureType, VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from av.video.stream import VideoStream

from data_prep.work import BadItemError, StopWorkError
from videogn.data.pyav_reader import PyAVReader
from videogn.errors import VideoDecodeError

_MAX_RATE_DENOMINATOR = 1001 * 1000
_TIME_ERROR = 1e-4  # seconds; the units of mp4 are finer
_NO_RATE = Fraction(30)  # where a file tells neither times nor a rate
# Faults of the disk that is written to: every other video would meet them too.
_DISK_FAULTS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}


@dataclass(frozen=True)
class Settings:
    """How videos are written.

    Attributes:
        short_side: pixels at most; smaller videos keep their size.
        gop: frames from one keyframe to the next at most.
        crf: constant quality of x264, 0 (best) to 51.
        preset: of x264, how much time it takes to make files smaller.
        b_frames: between two others at most.
    """

    short_side: int
    gop: int
    crf: int
    preset: str
    b_frames: int = 2


def encode(reader: PyAVReader, path: Path, settings: Settings) -> None:
    """Writes all frames of `reader` to the mp4 file `path`, which is there only when it is whole.

    H.264, yuv420p, no sound. Raises VideoDecodeError for the source, BadItemError when a frame
    cannot be encoded or the result does not hold the same frames at the same times, StopWorkError
    for a disk that cannot be written.
    """
    temporary = unfinished(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write(reader, temporary, settings)
            _sync(temporary)
            _check(reader, temporary)
            temporary.replace(path)
        except (FFmpegError, OSError) as error:
            if error.errno in _DISK_FAULTS:
                raise StopWorkError(
                    f"{path}: cannot be written ({os.strerror(error.errno)}); make room or choose "
                    "another --out, and run the command again"
                ) from error
            raise BadItemError("encoder error", f"cannot be written: {error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def unfinished(path: Path) -> Path:
    """The name of `path` while it is written; a process that is killed leaves it behind."""
    return path.with_name(f".{path.name}.part")


def target_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height, even, with a short side of at most `short_side` and no side enlarged."""
    short = min(width, height)
    scale = min(Fraction(1), Fraction(short_side, short))

    def even(side: int) -> int:
        return max(2, min(round(side * scale / 2) * 2, side // 2 * 2))

    return even(width), even(height)


def _write(reader: PyAVReader, path: Path, settings: Settings) -> None:
    rotation = reader.rotation
    with av.open(str(path), "w", format="mp4", options={"movflags": "faststart"}) as container:
        stream: VideoStream | None = None
        for frame in _frames(reader, settings.short_side, rotation):
            if stream is None:
                stream = _add_stream(container, frame, _rate(reader), settings)
            container.mux(stream.encode(frame))
        if stream is not None:
            container.mux(stream.encode(None))


def _add_stream(
    container: OutputContainer, frame: VideoFrame, rate: Fraction, settings: Settings
) -> VideoStream:
    """A stream for frames like `frame`."""
    options = {"crf": str(settings.crf), "preset": settings.preset, "x264-params": "open-gop=0"}
    stream = container.add_stream("libx264", rate=rate, options=options)
    stream.width, stream.height, stream.pix_fmt = frame.width, frame.height, "yuv420p"
    context = stream.codec_context
    context.gop_size, context.max_b_frames = settings.gop, settings.b_frames
    context.thread_count = 1  # the processes are the parallelism
    if frame.time_base is not None:
        context.time_base = frame.time_base
    context.colorspace, context.color_range = frame.colorspace, frame.color_range
    context.color_trc, context.color_primaries = frame.color_trc, frame.color_primaries
    return stream


def _rate(reader: PyAVReader) -> Fraction:
    return Fraction(reader.fps).limit_denominator(_MAX_RATE_DENOMINATOR) or _NO_RATE


def _frames(reader: PyAVReader, short_side: int, rotation: int) -> Iterator[VideoFrame]:
    """The frames to encode: scaled, upright, their times counted from the first."""
    reformatter = VideoReformatter()
    first: int | None = None
    size: tuple[int, int] | None = None
    width = height = 0
    for number, frame in enumerate(reader.decode_all()):
        if size is None:
            size, first = (frame.width, frame.height), frame.pts
            width, height = target_size(*size, short_side)
        if size != (frame.width, frame.height):
            raise VideoDecodeError(reader.path, f"is no longer {size[0]}x{size[1]}")
        picture = reformatter.reformat(
            frame, width, height, "yuv420p", interpolation=Interpolation.BICUBIC, threads=1
        )
        if rotation:
            picture = _turned(picture, rotation)
        if reader.index.pts is None or first is None or frame.pts is None:  # no times to go by
            picture.pts, picture.time_base = number, 1 / _rate(reader)
        else:
            picture.pts, picture.time_base = frame.pts - first, reader.time_base
        picture.pict_type = PictureType.NONE  # else the encoder copies the keyframes of the source
        yield picture


def _turned(frame: VideoFrame, rotation: int) -> VideoFrame:
    """A frame in yuv420p turned clockwise by 90, 180 or 270 degrees."""
    packed = frame.to_ndarray()
    luma, chroma = packed[: frame.height], packed[frame.height :]
    planes = [luma, *chroma.reshape(2, frame.height // 2, frame.width // 2)]
    turned = [np.rot90(plane, -rotation // 90) for plane in planes]
    height, width = turned[0].shape
    flat = np.concatenate([plane.ravel() for plane in turned]).astype(np.uint8, copy=False)
    result = VideoFrame.from_ndarray(flat.reshape(height * 3 // 2, width), format="yuv420p")
    result.colorspace, result.color_range = frame.colorspace, frame.color_range
    result.color_trc, result.color_primaries = frame.color_trc, frame.color_primaries
    return result


def _sync(path: Path) -> None:
    """Has the disk hold the file before it gets its name."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _check(reader: PyAVReader, path: Path) -> None:
    """BadItemError unless the file at `path` holds as many frames, at the same times."""
    with PyAVReader(path) as new:
        if new.num_frames != reader.num_frames:
            raise BadItemError(
                "frames lost",
                f"{new.num_frames} of its {reader.num_frames} frames could be written",
            )
        before, after = _seconds(reader), _seconds(new)
        if before is not None and after is not None and np.abs(before - after).max() > _TIME_ERROR:
            raise BadItemError("times changed", "its frames could not be written at their times")


def _seconds(reader: PyAVReader) -> np.ndarray | None:
    """float64 (num_frames,): the times of the frames from the first; None where they have none."""
    pts = reader.index.pts
    return None if pts is None else (pts - pts[0]) * float(reader.time_base or 0)
