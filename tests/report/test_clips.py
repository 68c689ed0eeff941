"""Clips to look at: the middle of a video, small, upright, at its speed, for every browser."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from videogn.data.decode import open_video
from videogn.data.synthetic import encode_video
from videogn.report.clips import middle, write_clip


@pytest.mark.parametrize(
    ("num_frames", "fps", "first", "step", "count", "shown_fps"),
    [
        (100, 25.0, 0, 2, 50, 12),  # four seconds: all of it
        (300, 30.0, 91, 3, 40, 10),  # ten: the four in the middle
        (250, 29.97, 66, 2, 59, 15),
        (5, 5.0, 0, 1, 5, 5),  # slow already
        (1, 30.0, 0, 0, 1, 10),
        (2, 30.0, 0, 0, 1, 10),
        (14, 0.0, 0, 2, 7, 12),  # a file that does not tell its rate
    ],
)
def test_the_middle_at_the_speed_of_the_video(
    num_frames: int, fps: float, first: int, step: int, count: int, shown_fps: int
) -> None:
    indices, rate = middle(num_frames, fps)
    assert indices == [first + i * step for i in range(count)]
    assert rate == shown_fps
    assert 0 <= indices[0] <= indices[-1] < num_frames


def test_a_clip_is_small_and_shows_the_frames(tmp_path: Path) -> None:
    ramp = np.linspace(0, 200, 270)[None, None, :, None] + np.arange(30)[:, None, None, None]
    frames = np.broadcast_to(ramp, (30, 200, 270, 3)).astype(np.uint8)
    encode_video(tmp_path / "video.mp4", frames, fps=30)
    with open_video(tmp_path / "video.mp4") as reader:
        write_clip(tmp_path / "clip.mp4", reader)

    with av.open(str(tmp_path / "clip.mp4")) as container:
        stream = container.streams.video[0]
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 10
    assert len(shown) == 10
    assert shown[0].shape == (128, 172, 3)
    brightness = [int(picture.mean()) for picture in shown]
    wanted = [int(frames[i].mean()) for i in range(1, 30, 3)]
    assert np.abs(np.subtract(brightness, wanted)).max() <= 2
    assert (tmp_path / "clip.mp4").stat().st_size < 20_000


def test_a_turned_video_is_shown_upright(tmp_path: Path) -> None:
    frames = np.zeros((3, 64, 96, 3), np.uint8)
    frames[:, :, :48] = 250  # left is bright
    encode_video(tmp_path / "video.mp4", frames)

    with open_video(tmp_path / "video.mp4") as reader:

        class Turned:
            """The reader of a file that says: show it turned clockwise."""

            num_frames, fps, rotation = reader.num_frames, reader.fps, 90
            frames = staticmethod(reader.frames)

        write_clip(tmp_path / "clip.mp4", Turned())  # type: ignore[arg-type]
    with open_video(tmp_path / "clip.mp4") as clip:
        picture = clip.frames([0])[0]
    assert picture.shape == (192, 128, 3)
    assert picture[:80].mean() > 200  # what was left is at the top
    assert picture[112:].mean() < 50
