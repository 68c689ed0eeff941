"""An index read back is the index written; a wrong one never gives a wrong frame."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.videos import read_number, write_numbered
from videogn.data.decode import open_video
from videogn.data.frame_index import FrameIndex, IndexCache
from videogn.errors import DataError, VideoDecodeError


@pytest.fixture(scope="module")
def mp4(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("videos") / "b.mp4", 40, b_frames=2)


@pytest.fixture(scope="module")
def avi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_numbered(tmp_path_factory.mktemp("videos") / "a.avi", 40, codec="mpeg4")


STAMPS = st.lists(st.integers(1, 2**40), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(start=st.integers(-(2**40), 2**40), steps=STAMPS, flags=st.tuples(*[st.booleans()] * 2))
def test_text_and_back(start: int, steps: list[int], flags: tuple[bool, bool]) -> None:
    pts = start + np.cumsum(steps)
    keys = [(int(pts[0]), start), (int(pts[-1]), int(pts[-1]))]
    index = FrameIndex(1234, len(pts), pts, keys, *flags)
    text = index.to_text()
    assert text.isascii()
    assert not set(text) & set(', "\r\n')
    back = FrameIndex.from_text(text)
    np.testing.assert_array_equal(back.pts, pts)
    assert (back.file_size, back.num_frames, list(back.keyframes)) == (1234, len(pts), keys)
    assert (back.is_open, back.is_trimmed) == flags
    assert back.to_text() == text


@settings(max_examples=60, deadline=None)
@given(pattern=st.lists(st.integers(1, 50), min_size=1, max_size=5), count=st.integers(1, 40))
def test_patterns_and_back(pattern: list[int], count: int) -> None:
    pts = np.concatenate([[0], np.cumsum(np.resize(pattern, count))])
    text = FrameIndex(1, len(pts), pts).to_text()
    np.testing.assert_array_equal(FrameIndex.from_text(text).pts, pts)


def test_a_steady_rate_is_short(mp4: Path, avi: Path) -> None:
    with open_video(mp4) as video:
        assert video.index.to_text().startswith(f"1;{mp4.stat().st_size};40;;0+512x39;0/")
    rounded = np.round(np.arange(300) * 1001 / 30).astype(np.int64)  # 29.97 frames/s in Matroska
    text = FrameIndex(1, 300, rounded, [(0, 0)]).to_text()
    assert len(text) < 220  # without the pattern 700
    np.testing.assert_array_equal(FrameIndex.from_text(text).pts, rounded)
    with open_video(avi) as video:
        assert video.index.to_text() == f"1;{avi.stat().st_size};40;;;"


BAD_TEXTS = [
    "",
    "ok",
    "2;9;3;;0+1x2;0/0",
    "1;9;4;;0+1x2;0/0",
    "1;9;0;;;",
    "1;9;3;;0+0x2;0/0",
    "1;9;3;;0+1x999999999999;0/0",
    "1;9;3;;0+1x-2;0/0",
    "1;9;3;;0+1x2;0",
    "1;9;3;;0+1.1~3;0/0",
    "1;9;3;;0+~2;0/0",
    "1;9;3;;0+1~99999999999;0/0",
    "1;x;3;;0+1x2;0/0",
]


@pytest.mark.parametrize("text", BAD_TEXTS)
def test_what_is_no_index_is_an_error(text: str) -> None:
    with pytest.raises(DataError, match="is no index of frames"):
        FrameIndex.from_text(text)


def test_a_given_index_saves_counting(avi: Path, tmp_path: Path) -> None:
    with open_video(avi) as video:
        index = video.index
    copy = tmp_path / "copy.avi"  # in no cache
    copy.write_bytes(avi.read_bytes())
    with open_video(copy, index=index) as video:
        assert video.stats.decoded == 0
        assert read_number(video.frames([17])[0]) == 17
    copy2 = tmp_path / "copy2.avi"
    copy2.write_bytes(avi.read_bytes())
    with open_video(copy2) as video:
        assert video.stats.decoded == 40
    with open_video(copy2) as video:  # remembered
        assert video.stats.decoded == 0


def test_an_index_of_another_file_is_not_used(mp4: Path, avi: Path) -> None:
    with open_video(avi) as video:
        index = video.index
    with open_video(mp4, index=index) as video:
        assert [read_number(frame) for frame in video.frames([0, 21, 39])] == [0, 21, 39]


def test_a_replaced_file_is_indexed_again(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "v.mp4", 10)
    with open_video(path) as video:
        assert video.num_frames == 10
    write_numbered(path, 25, gop=5)
    with open_video(path) as video:
        assert [read_number(frame) for frame in video.frames([24, 3])] == [24, 3]


def test_a_false_index_of_the_right_size_is_an_error_and_no_wrong_frame(mp4: Path) -> None:
    with open_video(mp4) as video:
        true = video.index
    assert true.pts is not None
    false = FrameIndex(true.file_size, 40, true.pts + 7, true.keyframes)
    with (
        open_video(mp4, index=false) as video,
        pytest.raises(VideoDecodeError, match="cannot be decoded"),
    ):
        video.frames([5])
    no_keys = FrameIndex(true.file_size, 40, true.pts)
    with open_video(mp4, index=no_keys) as video:
        assert read_number(video.frames([30])[0]) == 30


def test_the_oldest_index_leaves_a_full_cache() -> None:
    cache = IndexCache(size=2)
    for key in "abc":
        cache.put(key, FrameIndex(1, 1, None))
    assert cache.get("a") is None
    kept = cache.get("c")
    assert kept is not None
    assert kept.num_frames == 1
