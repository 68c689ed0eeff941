"""Moving thumbnails: a few frames of a video side by side in one small JPEG."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame

from videogn.data.decode import open_video
from videogn.errors import DataError

FRAMES = 8
_LONG_SIDE = 144  # pixels of a frame; 8 of them come to about 20 kB
_QUALITY = 6  # of mjpeg, 2 (best) to 31
_TIMEOUT = 20.0  # seconds for one video


@dataclass(frozen=True)
class Thumbnail:
    """Frames side by side.

    Attributes:
        jpeg: the picture.
        width: of one frame, pixels.
        height: of one frame, pixels.
        frames: how many.
    """

    jpeg: bytes
    width: int
    height: int
    frames: int


def thumbnail(path: str, videos: Path) -> Thumbnail:
    """Returns evenly spaced frames of the video at `path` under the folder `videos`.

    Raises:
        DataError: it cannot be read.
    """
    with open_video(f"{videos}/{path}", root=videos, timeout=_TIMEOUT) as reader:
        number = min(FRAMES, reader.num_frames)
        last = reader.num_frames - 1
        wanted = [round(place * last / max(number - 1, 1)) for place in range(number)]
        turns = reader.rotation // 90
        frames = reader.frames(wanted, each=lambda frame: _small(np.rot90(frame, -turns)))
    return encode_strip(frames)


def encode_strip(frames: np.ndarray) -> Thumbnail:
    """Returns uint8 frames (T, H, W, 3) as a JPEG of them side by side."""
    number, height, width, _ = frames.shape
    if not number:
        raise DataError("a video without frames has no thumbnail; verify the data root")
    strip = VideoFrame.from_ndarray(np.ascontiguousarray(np.concatenate(list(frames), axis=1)))
    codec = av.CodecContext.create("mjpeg", "w")
    assert isinstance(codec, VideoCodecContext)
    codec.width, codec.height, codec.pix_fmt = strip.width, strip.height, "yuvj420p"
    codec.time_base = Fraction(1)
    codec.qmin = codec.qmax = _QUALITY
    packets = [*codec.encode(strip.reformat(format="yuvj420p")), *codec.encode(None)]
    return Thumbnail(b"".join(map(bytes, packets)), width, height, number)


def _small(frame: np.ndarray) -> np.ndarray:
    """Returns a frame with its longer side at most `_LONG_SIDE`, both even for the JPEG."""
    height, width, _ = frame.shape
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = [max(2, 2 * round(side * scale / 2)) for side in (width, height)]
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame))
    return picture.reformat(*size, format="rgb24").to_ndarray()
