"""What of a video is scored: the views of the test protocol, or windows all along it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from videogn.data.dataset import ViewSpec, read_views, scaler
from videogn.data.pyav_reader import PyAVReader
from videogn.data.sampling import frame_indices
from videogn.data.transforms import Box, eval_crops

_TIME_ERROR = 1e-3  # seconds; Matroska's time stamps are rounded to them


@dataclass(frozen=True)
class View:
    """One input of the network, cut when it is wanted: views of a clip share its frames.

    Attributes:
        frames: uint8 (U, H, W, 3).
        clip: int64 (T,), indices into `frames`.
        box: top, left, height, width of the crop, in pixels.
    """

    frames: Tensor
    clip: Tensor
    box: Box

    @property
    def shape(self) -> tuple[int, int, int]:
        """Frames, height and width."""
        return len(self.clip), self.box[2], self.box[3]

    def cut(self) -> Tensor:
        """Returns uint8 (T, height, width, 3)."""
        top, left, height, width = self.box
        return self.frames[self.clip, top : top + height, left : left + width]


class Piece(NamedTuple):
    """A stretch of a video that gets one answer: the mean over its views.

    Attributes:
        start, end: seconds after the first frame.
        views: at least one.
    """

    start: float
    end: float
    views: list[View]


def whole_video(video: PyAVReader, spec: ViewSpec) -> Iterator[Piece]:
    """Yields the one piece of the test protocol: its views, spread over the video."""
    frames, clips, boxes = read_views(video, spec, upright=True)
    views = [View(frames, clip, box) for clip in clips for box in boxes]
    yield Piece(0.0, _end(video, video.num_frames - 1), views)


def windows(video: PyAVReader, spec: ViewSpec, every: float | None) -> Iterator[Piece]:
    """Yields a piece for each window of a clip's length; memory holds the frames of one.

    Args:
        video: of any length; one shorter than a clip is looped.
        spec: how a view is cut; its number of clips is not looked at.
        every: seconds from the start of a window to that of the next; None for the length of a
            clip. The last window ends with the video.
    """
    span = spec.num_frames * spec.frame_stride
    starts = window_starts(video, span, every)
    clips = [
        frame_indices(start, spec.num_frames, spec.frame_stride, video.num_frames)
        for start in starts
    ]
    wanted = np.unique(np.asarray(clips)).tolist()
    images = video.stream(wanted, scaler(video, spec.short_side, upright=True))
    held: dict[int, np.ndarray] = {}
    coming = iter(zip(wanted, images, strict=True))
    for start, clip in zip(starts, clips, strict=True):
        held = {index: image for index, image in held.items() if index >= min(clip)}
        while max(clip) not in held:
            index, image = next(coming)
            held[index] = image.copy()  # a view of a block would keep the whole of it
        end = _end(video, min(start + span, video.num_frames) - 1)
        yield Piece(video.time(start), end, _views(held, clip, spec))


def window_starts(video: PyAVReader, span: int, every: float | None) -> list[int]:
    """Returns the first frames of the windows, rising.

    Args:
        video: its frames' times count, so that a variable rate is followed.
        span: frames that a window covers.
        every: seconds, see `windows`.
    """
    last = max(video.num_frames - span, 0)
    if every is None:
        return sorted({*range(0, last + 1, span), last})
    times = np.array([video.time(index) for index in range(last + 1)])
    starts = np.searchsorted(times, np.arange(0, times[-1] + every, every) - _TIME_ERROR)
    return sorted({0, last, *(int(start) for start in starts if start <= last)})


def _views(held: dict[int, np.ndarray], clip: Sequence[int], spec: ViewSpec) -> list[View]:
    frames = torch.from_numpy(np.stack([held[index] for index in clip]))
    height, width = frames.shape[1:3]
    boxes = eval_crops(height, width, crops=spec.crops, crop_size=spec.crop_size)
    order = torch.arange(len(clip))
    return [View(frames, order, box) for box in boxes]


def _end(video: PyAVReader, index: int) -> float:
    """Returns when a frame has been shown, in seconds."""
    if index + 1 < video.num_frames:
        return video.time(index + 1)
    return video.time(index) + (1 / video.fps if video.fps else 0.0)
