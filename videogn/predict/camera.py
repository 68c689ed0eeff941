"""A camera, answered for while it films."""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import count
from typing import NamedTuple

import av
import numpy as np
import torch
from av.error import FFmpegError

from videogn.data.dataset import ViewSpec
from videogn.data.transforms import eval_crops, resize, short_side_size
from videogn.errors import DataError
from videogn.predict.answers import Span
from videogn.predict.classifier import Classifier


class Shot(NamedTuple):
    """A frame of a camera: seconds after the first, and uint8 (H, W, 3) RGB."""

    seconds: float
    image: np.ndarray


def open_camera(number: int) -> Iterator[Shot]:
    """Yields the frames of a camera as they come, for ever.

    Linux only (Video4Linux). Files are read through `open_video`, which opens no devices.

    Raises:
        DataError: there is no such camera, or it stops.
    """
    if not sys.platform.startswith("linux"):
        raise DataError(f"--camera {number}: cameras are read on Linux only; give a video file")
    return shots(f"/dev/video{number}", "v4l2")


def shots(name: str, input_format: str) -> Iterator[Shot]:
    """Yields the frames of one of FFmpeg's input devices.

    Raises:
        DataError: it cannot be opened, or stops.
    """
    begin = None
    try:
        with av.open(name, format=input_format) as container:
            for frame in container.decode(video=0):
                now = time.monotonic()
                begin = now if begin is None else begin
                yield Shot(now - begin, frame.to_ndarray(format="rgb24"))
    except (FFmpegError, OSError, IndexError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DataError(
            f"camera {name} cannot be read ({reason}); is it connected, free, and yours to open?"
        ) from error


def follow(source: Iterable[Shot], classifier: Classifier, every: float) -> Iterator[Span]:
    """Yields an answer for the newest clip of a source, again and again until it ends.

    A thread takes the frames; while the network is busy, only the newest clip's worth are kept, so
    that an answer is never about the past. The first comes when there are frames for a clip.

    Args:
        source: of frames of one size.
        classifier: with the clip's length, stride and crops.
        every: seconds between two answers at least.
    """
    spec = classifier.spec
    ring = _Ring(spec.num_frames * spec.frame_stride)
    thread = threading.Thread(target=ring.take, args=(source,), daemon=True)
    thread.start()
    due = 0.0
    for _ in count():
        clip = ring.newest(after=due)
        if clip is None:
            break
        due = clip[-1].seconds + every
        yield _answer(clip, spec, classifier)
    if ring.error:
        raise ring.error


class _Ring:
    """The newest frames of a source, filled by one thread and looked at by another."""

    def __init__(self, length: int) -> None:
        self._frames: deque[Shot] = deque(maxlen=length)
        self._changed = threading.Condition()
        self._ended = False
        self.error: DataError | None = None

    def take(self, source: Iterable[Shot]) -> None:
        """Keeps the frames of `source` until it ends."""
        try:
            for shot in source:
                with self._changed:
                    self._frames.append(shot)
                    self._changed.notify_all()
        except DataError as error:
            self.error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def newest(self, after: float) -> list[Shot] | None:
        """Returns the newest clip once it ends at `after` seconds or later; None at the end."""

        def is_there() -> bool:
            full = len(self._frames) == self._frames.maxlen
            return full and self._frames[-1].seconds >= after

        with self._changed:
            self._changed.wait_for(lambda: is_there() or self._ended)
            return list(self._frames) if is_there() else None


def _answer(clip: list[Shot], spec: ViewSpec, classifier: Classifier) -> Span:
    images = np.stack([shot.image for shot in clip[:: spec.frame_stride]])
    height, width = short_side_size(images.shape[1], images.shape[2], spec.short_side)
    frames = resize(torch.from_numpy(images), height, width)
    boxes = eval_crops(height, width, crops=spec.crops, crop_size=spec.crop_size)
    views = [frames[:, top : top + h, left : left + w] for top, left, h, w in boxes]
    scores = classifier.score(torch.stack(views))
    span = Span(clip[0].seconds, clip[-1].seconds, len(views))
    span.scored += zip(scores.probs.cpu(), scores.features.cpu(), strict=True)
    return span
