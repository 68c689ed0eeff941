"""Reading a long video in one pass: the frames of `frames`, few at a time, none decoded twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.videos import read_number, write_numbered
from videogn.data import pyav_reader
from videogn.data.pyav_reader import PyAVReader

LENGTH = 150


@pytest.fixture(scope="module", params=["mp4", "mkv", "ts", "avi"])
def video(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stream") / f"numbers.{request.param}"
    codec, b_frames = ("mpeg4", 0) if request.param == "avi" else ("libx264", 2)
    options = {"x264-params": "scenecut=0"} if codec == "libx264" else {}
    return write_numbered(path, LENGTH, codec=codec, gop=12, b_frames=b_frames, options=options)


@pytest.mark.parametrize("step", [1, 2, 40])
def test_every_frame_asked_for_comes_once_and_in_order(video: Path, step: int) -> None:
    asked = list(range(3, LENGTH, step))
    with PyAVReader(video) as reader:
        before = reader.stats.decoded
        numbers = [read_number(image) for image in reader.stream(asked)]
        decoded = reader.stats.decoded - before
    assert numbers == asked
    assert decoded <= LENGTH + 12  # MPEG-TS may seek a little too far back


def test_memory_holds_a_block_and_not_the_video(
    video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []
    frames = PyAVReader.frames

    def noted(self: PyAVReader, *args: object) -> np.ndarray:
        images = frames(self, *args)  # type: ignore[arg-type]
        held.append(len(images))
        return images

    monkeypatch.setattr(PyAVReader, "frames", noted)
    with PyAVReader(video) as reader:
        assert sum(1 for _ in reader.stream(range(LENGTH))) == LENGTH
    # 32 frames at least, then on to the next keyframe; AVI does without blocks
    assert held == ([] if video.suffix == ".avi" else [36, 36, 36, 36, 6])


def test_a_block_ends_also_where_no_keyframe_comes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pyav_reader, "_LONGEST_BLOCK", 40)
    options = {"x264-params": "scenecut=0"}
    path = write_numbered(tmp_path / "one.mp4", 100, gop=1000, options=options)
    with PyAVReader(path) as reader:
        blocks = reader._blocks(list(range(100)))
        assert [read_number(image) for image in reader.stream(range(100))] == list(range(100))
    assert [block.stop - block.start for block in blocks] == [40, 40, 20]


def test_frames_are_mapped_and_nothing_asked_gives_nothing(video: Path) -> None:
    with PyAVReader(video) as reader:
        assert list(reader.stream([])) == []
        (image,) = reader.stream([5], each=lambda frame: frame[:2, :3])
    assert image.shape == (2, 3, 3)


def test_an_index_outside_the_video_is_refused(video: Path) -> None:
    with PyAVReader(video) as reader, pytest.raises(IndexError, match=f"frame {LENGTH} of"):
        list(reader.stream([0, LENGTH]))


def test_times_follow_a_variable_rate(tmp_path: Path) -> None:
    times = [0, 1, 2, 10, 11, 30]
    path = write_numbered(tmp_path / "variable.mkv", len(times), times=times)
    with PyAVReader(path) as reader:
        seconds = [reader.time(index) for index in range(len(times))]
    assert seconds == pytest.approx([time / 30 for time in times], abs=1e-3)
