"""Thumbnails show the video's own frames, evenly spaced, upright and small."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
from av.video.codeccontext import VideoCodecContext

from tests.videos import numbered_frame, read_number, write_numbered
from videogn.errors import DataError
from videogn.report.thumbnails import Thumbnail, encode_strip, thumbnail


def frames_of(made: Thumbnail) -> list[np.ndarray]:
    """The frames of the strip, uint8 (H, W, 3)."""
    codec = av.CodecContext.create("mjpeg", "r")
    assert isinstance(codec, VideoCodecContext)
    [strip] = codec.decode(av.Packet(made.jpeg))
    pixels = strip.to_ndarray(format="rgb24")
    assert pixels.shape == (made.height, made.width * made.frames, 3)
    return np.split(pixels, made.frames, axis=1)


@pytest.mark.parametrize(
    ("length", "expected"),
    [(12, [0, 2, 3, 5, 6, 8, 9, 11]), (8, list(range(8))), (3, [0, 1, 2]), (1, [0])],
)
def test_the_frames_are_evenly_spaced_from_the_first_to_the_last(
    length: int, expected: list[int], tmp_path: Path
) -> None:
    write_numbered(tmp_path / "v.mp4", length)
    made = thumbnail("v.mp4", tmp_path)
    assert [read_number(frame) for frame in frames_of(made)] == expected


def test_a_video_held_upright_is_shown_upright(tmp_path: Path) -> None:
    write_numbered(tmp_path / "v.mp4", 3)
    with av.open(str(tmp_path / "v.mp4")) as source, av.open(str(tmp_path / "r.mp4"), "w") as out:
        stream = out.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(-90)  # counterclockwise
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                out.mux(packet)
    upright = [np.rot90(frame, 1) for frame in frames_of(thumbnail("r.mp4", tmp_path))]
    assert [read_number(frame) for frame in upright] == [0, 1, 2]


def test_large_frames_become_small_ones_of_the_same_shape(tmp_path: Path) -> None:
    frame = np.repeat(np.repeat(numbered_frame(5), 5, axis=0), 10, axis=1)  # 320 x 640
    path = tmp_path / "v.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 640, 320, "yuv420p"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    made = thumbnail("v.mp4", tmp_path)
    assert (made.width, made.height, made.frames) == (144, 72, 1)


def test_what_is_no_video_or_lies_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "v.mp4").write_text("no video")
    (tmp_path / "inside").mkdir()
    write_numbered(tmp_path / "outside.mp4", 3)
    for path, folder in (("v.mp4", tmp_path), ("../outside.mp4", tmp_path / "inside")):
        with pytest.raises(DataError):
            thumbnail(path, folder)
    with pytest.raises(DataError, match="without frames"):
        encode_strip(np.zeros((0, 4, 4, 3), np.uint8))
