"""Video to measure with: footage at the size of Kinetics, at keyframe distances of our choice.

The pictures are made on the spot, texture in motion under noise, or come from a video given. Still
or smooth pictures would decode far faster than footage does, and flatter whoever converts slowly.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch

from videogn.data.decode import open_video
from videogn.data.transforms import resize

WIDTH, HEIGHT = 340, 256
FPS = 30
FRAMES = 300
# Grey levels. With crf 23 it gives 0.5 Mbit/s; clips of Kinetics at this size have 0.4 to 0.8.
_NOISE = 6.0


def write_footage(path: Path, *, gop: int, source: Path | None = None) -> Path:
    """Writes 300 frames of H.264, a keyframe at least every `gop` of them; returns `path`.

    The pictures are those of `source` (from the start again when it ends), else made up.
    """
    options = {"crf": "23", "preset": "medium", "x264-params": f"keyint={gop}:bframes=3"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        stream.codec_context.time_base = Fraction(1, FPS)
        pictures = _moving_texture() if source is None else _pictures(source)
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _pictures(source: Path) -> Iterator[np.ndarray]:
    """300 frames of a video, uint8 (256, 340, 3)."""
    with open_video(source) as video:
        frames = video.frames([n % video.num_frames for n in range(FRAMES)])
    for frame in frames:
        yield resize(torch.from_numpy(frame[None]), HEIGHT, WIDTH)[0].numpy()


def _moving_texture() -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    # Blocks of 8 pixels, softened: edges at the scale that footage has.
    blocks = rng.uniform(0, 256, (HEIGHT // 8 + 30, WIDTH // 8 + 30)).repeat(8, 0).repeat(8, 1)
    shifts = [(y, x) for y in (0, 2, 4) for x in (0, 2, 4)]
    texture = np.mean([np.roll(blocks, shift, (0, 1)) for shift in shifts], axis=0)
    for number in range(FRAMES):
        top = int(100 + 90 * np.sin(number / 17))
        left = int(100 + 90 * np.cos(number / 23))
        gray = texture[top : top + HEIGHT, left : left + WIDTH]
        gray = gray + rng.normal(0, _NOISE, gray.shape)
        image = np.stack([gray, 0.8 * gray + 20, 255 - gray], axis=-1)
        yield image.clip(0, 255).astype(np.uint8)
