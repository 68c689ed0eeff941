"""Small clips that play in a browser: what a person needs to see why a video was mistaken."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from videogn.data.decode import VideoReader
from videogn.data.synthetic import encode_video
from videogn.data.transforms import resize, short_side_size

# Of two videos of 10 s, 340x256 and 426x240 pixels, the clips took 29 and 22 kB.
SHORT_SIDE = 128  # pixels
SECONDS = 4.0
FPS = 10
_CRF = 28


def write_clip(path: Path, reader: VideoReader) -> None:
    """Writes the middle of a video, small, as H.264 that every browser plays.

    Args:
        path: of the mp4 file.
        reader: an open video.

    Raises:
        VideoDecodeError: its frames cannot be read.
        OSError: the file cannot be written.
    """
    indices, fps = middle(reader.num_frames, reader.fps)
    frames = np.rot90(reader.frames(indices), -reader.rotation // 90, axes=(1, 2))
    height, width = short_side_size(frames.shape[1], frames.shape[2], SHORT_SIDE)
    small = resize(torch.from_numpy(frames.copy()), height // 2 * 2, width // 2 * 2)
    encode_video(path, small.numpy(), fps=fps, gop=len(indices), crf=_CRF)


def middle(num_frames: int, fps: float) -> tuple[list[int], int]:
    """Returns which frames to show of the middle of a video, and how many a second.

    At most `SECONDS` of about `FPS` frames a second, at the speed of the video.

        100 frames at 25 a second: 0, 2, 4, ... 96, 98 at 12 a second
    """
    fps = fps or 25.0  # a file that does not tell
    stride = max(int(fps / FPS), 1)
    count = max(min((num_frames - 1) // stride + 1, int(SECONDS * fps / stride)), 1)
    start = (num_frames - 1 - (count - 1) * stride) // 2
    return [start + i * stride for i in range(count)], max(round(fps / stride), 1)
