"""Videos whose every frame carries its own number in the pixels, so that an index error shows.

A frame is a 4x4 board of blocks, black or white: the 16 bits of its number. Blocks of 16x16 pixels
survive any codec at the sizes used here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

SIDE = 64
_BLOCK = SIDE // 4


def numbered_frame(number: int) -> np.ndarray:
    """uint8 (64, 64, 3): the picture of `number`, 0 to 65535."""
    bits = (number >> np.arange(16)) & 1
    board = np.where(bits, 235, 20).astype(np.uint8).reshape(4, 4)
    gray = board.repeat(_BLOCK, axis=0).repeat(_BLOCK, axis=1)
    return np.stack([gray] * 3, axis=-1)


def read_number(frame: np.ndarray) -> int:
    """The number that a decoded frame, uint8 (64, 64, 3), carries."""
    blocks = frame.mean(axis=-1).reshape(4, _BLOCK, 4, _BLOCK).mean(axis=(1, 3))
    return int(((blocks.ravel() > 127) << np.arange(16)).sum())


def write_numbered(
    path: Path,
    num_frames: int,
    *,
    codec: str = "libx264",
    gop: int = 12,
    b_frames: int = 0,
    options: Mapping[str, str] | None = None,
    container_options: Mapping[str, str] | None = None,
    times: Sequence[int] | None = None,
) -> Path:
    """Writes frames 0, 1, ... to `path`, whose suffix names the container, and returns it.

    `options` are the codec's. `times` are presentation times in 1/30 s, for a variable rate;
    default 0, 1, 2, ...
    """
    with av.open(str(path), "w", options=dict(container_options or {})) as container:
        stream = container.add_stream(codec, rate=30, options=dict(options or {}))
        assert isinstance(stream, av.VideoStream)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = gop
        stream.codec_context.max_b_frames = b_frames
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, 30)
        for number in range(num_frames):
            frame = av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")
            frame.pts = number if times is None else times[number]
            frame.time_base = Fraction(1, 30)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def decode_all(path: Path) -> np.ndarray:
    """uint8 (T, H, W, 3): what plain decoding from the first to the last frame gives."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])
