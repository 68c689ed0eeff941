"""A copy of a video with its labels drawn on the frames, and a timeline along the lower edge."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, Self

import av
import matplotlib
import numpy as np
from av.video.stream import VideoStream
from PIL import Image, ImageDraw, ImageFont

from videogn.data.pyav_reader import PyAVReader

# Colours of a timeline, told apart also by who sees few colours (Okabe and Ito's), by class id.
_COLOURS = ("#56b4e9", "#e69f00", "#009e73", "#f0e442", "#cc79a7", "#d55e00", "#0072b2", "#bbbbbb")
_PANEL = (16, 18, 22, 170)  # behind the text: dark, and what is beneath shows through
_WHITE, _TRACK = (255, 255, 255, 255), (255, 255, 255, 60)
_SMALLEST = 320  # pixels of the short side, below which text could not be read
_UNITS = Fraction(1, 90_000)  # seconds; of the time stamps written


class Caption(NamedTuple):
    """What is drawn while a stretch of the video is shown.

    Attributes:
        start, end: seconds.
        best: the best classes with their probabilities.
        colour_id: that of the best class on the timeline.
    """

    start: float
    end: float
    best: Sequence[tuple[str, float]]
    colour_id: int


def draw_labels(source: str, target: Path, captions: Sequence[Caption]) -> None:
    """Writes `source` upright with `captions` on it to the mp4 file `target`; no sound.

    Frames keep their times. Memory holds one group of pictures of the source.

    Raises:
        VideoDecodeError: the source cannot be read to its end; what was written stays.
        OSError: the target cannot be written.
    """
    with PyAVReader(source) as video:
        duration = video.time(video.num_frames - 1) + (1 / video.fps if video.fps else 0.0)
        with LabelledVideo(target, captions, duration) as out:
            images = video.stream(range(video.num_frames))
            for index, image in enumerate(images):
                out.add(np.rot90(image, -video.rotation // 90), video.time(index))


class LabelledVideo:
    """An mp4 file that takes frames and draws on them.

    Args:
        path: of the file.
        captions: rising in time; more may be appended while frames come.
        duration: seconds of the whole, for the timeline; 0 draws none.
    """

    def __init__(self, path: Path, captions: Sequence[Caption], duration: float = 0.0) -> None:
        self._captions, self._duration = captions, duration
        self._container = av.open(str(path), "w", format="mp4")
        self._stream: VideoStream | None = None
        self._painter: _Painter | None = None
        self._last = -1

    def add(self, image: np.ndarray, seconds: float) -> None:
        """Draws on a frame, uint8 (H, W, 3) of one size, and writes it for the time `seconds`."""
        if self._stream is None or self._painter is None:
            self._painter = _Painter(*_target_size(*image.shape[:2]))
            self._stream = self._add_stream(self._painter.width, self._painter.height)
        caption = caption_at(self._captions, seconds)
        picture = self._painter.paint(image, caption, self._captions, seconds, self._duration)
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
        self._last = max(round(seconds / _UNITS), self._last + 1)  # mp4 wants rising times
        frame.pts, frame.time_base = self._last, _UNITS
        self._container.mux(self._stream.encode(frame))

    def _add_stream(self, width: int, height: int) -> VideoStream:
        options = {"crf": "20", "preset": "veryfast"}
        stream = self._container.add_stream("libx264", rate=30, options=options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = _UNITS
        return stream

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def caption_at(captions: Sequence[Caption], seconds: float) -> Caption | None:
    """Returns the caption whose middle is nearest to a time; None while there is none."""
    middles = [(caption.start + caption.end) / 2 for caption in captions]
    if not middles:
        return None
    after = bisect_left(middles, seconds)
    near = [number for number in (after - 1, after) if 0 <= number < len(middles)]
    return captions[min(near, key=lambda number: abs(middles[number] - seconds))]


def _target_size(height: int, width: int) -> tuple[int, int]:
    """Returns an even (height, width), enlarged by a whole number where text would be too small."""
    times = max(1, -(-_SMALLEST // min(height, width)))
    return height * times // 2 * 2, width * times // 2 * 2


class _Painter:
    """Draws on frames of one size."""

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self._text = max(min(height, width) // 20, 14)  # pixels
        font = Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf")
        self._font = ImageFont.truetype(str(font), self._text)

    def paint(
        self,
        image: np.ndarray,
        caption: Caption | None,
        captions: Sequence[Caption],
        seconds: float,
        duration: float,
    ) -> np.ndarray:
        """Returns uint8 (height, width, 3): the frame with its panel and the timeline."""
        picture = Image.fromarray(np.ascontiguousarray(image)).resize(
            (self.width, self.height), Image.Resampling.BILINEAR
        )
        draw = ImageDraw.Draw(picture, "RGBA")
        if caption:
            self._panel(draw, caption)
        if duration and len(captions) > 1:
            self._timeline(draw, captions, seconds, duration)
        return np.asarray(picture)

    def _panel(self, draw: ImageDraw.ImageDraw, caption: Caption) -> None:
        line, gap = round(self._text * 1.5), self._text // 2
        bar = self._text * 4
        percent = round(draw.textlength("100 %", self._font)) + gap
        room = self.width - 5 * gap - bar - percent
        names = [self._shortened(draw, label, room) for label, _ in caption.best]
        longest = max(draw.textlength(name, self._font) for name in names)
        right = min(gap * 5 + bar + percent + round(longest), self.width - gap)
        bottom = gap + line * len(names) + gap
        draw.rounded_rectangle((gap, gap, right, bottom), gap, fill=_PANEL)
        for row, (name, (_, probability)) in enumerate(zip(names, caption.best, strict=True)):
            top = gap + gap // 2 + row * line
            middle, left = top + line // 2, 2 * gap
            half = self._text // 5
            draw.rectangle((left, middle - half, left + bar, middle + half), fill=_TRACK)
            filled = left + max(round(bar * probability), 1)
            colour = _COLOURS[caption.colour_id % len(_COLOURS)] if row == 0 else "#c8ccd4"
            draw.rectangle((left, middle - half, filled, middle + half), fill=colour)
            number = (left + bar + percent, middle)
            told = f"{100 * probability:.0f} %"
            draw.text(number, told, fill=_WHITE, font=self._font, anchor="rm")
            place = (left + bar + percent + gap, middle)
            draw.text(place, name, fill=_WHITE, font=self._font, anchor="lm")

    def _shortened(self, draw: ImageDraw.ImageDraw, label: str, room: float) -> str:
        """Returns one line of a label that fits into `room` pixels."""
        name = " ".join(label.split()) or "?"
        while len(name) > 2 and draw.textlength(name, self._font) > room:
            name = name[:-2].rstrip() + "…"
        return name

    def _timeline(
        self,
        draw: ImageDraw.ImageDraw,
        captions: Sequence[Caption],
        seconds: float,
        duration: float,
    ) -> None:
        top = self.height - max(self._text // 2, 6)
        draw.rectangle((0, top, self.width, self.height), fill=_PANEL)
        edges = [0.0]
        for one, two in pairwise(captions):
            edges.append((one.start + one.end + two.start + two.end) / 4)
        edges.append(duration)
        for number, caption in enumerate(captions):
            left, right = (self.width * edges[i] / duration for i in (number, number + 1))
            colour = _COLOURS[caption.colour_id % len(_COLOURS)]
            draw.rectangle((left, top + 2, right, self.height - 2), fill=colour)
        now = self.width * min(seconds / duration, 1.0)
        draw.rectangle((now - 2, top - 2, now + 2, self.height), fill=_WHITE)
