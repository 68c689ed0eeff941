"""The three decoders agree where all can read, and say so where one cannot."""

from __future__ import annotations

import random
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.data.test_decode import INTRA_REFRESH, OPEN_GOP, REAL_CLIPS
from tests.videos import decode_all, read_number, write_numbered
from videogn.data.decode import open_video
from videogn.errors import ConfigError, VideoDecodeError

OTHERS = ("decord", "torchcodec")

READ_BY_ALL = {
    "gop12.mp4": {"b_frames": 2},
    "gop250.mp4": {"gop": 250, "b_frames": 3},
    "b.mkv": {"b_frames": 3},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "vfr.mp4": {"times": [n * n for n in range(40)]},
}

REFUSED = {
    "open_gop.mp4": ({"b_frames": 4, "options": OPEN_GOP}, {"decord": "open GOPs"}),
    "h264.avi": ({"b_frames": 3}, dict.fromkeys(OTHERS, "in avi files")),
    "b.ts": ({"b_frames": 3}, dict.fromkeys(OTHERS, "in mpegts files")),
    "raw.h264": ({"b_frames": 3}, dict.fromkeys(OTHERS, "in h264 files")),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


def installed(decoder: str, path: Path) -> str:
    """Skips the test where the decoder does not work on this machine."""
    try:
        open_video(path, decoder=decoder).close()
    except ConfigError as error:
        pytest.skip(str(error))
    return decoder


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("name", READ_BY_ALL)
def test_all_give_the_same_bytes(name: str, decoder: str, folder: Path) -> None:
    path = folder / name
    if not path.exists():
        write_numbered(path, 40, **READ_BY_ALL[name])
    installed(decoder, path)
    indices = random.Random(0).choices(range(40), k=24)
    with open_video(path, decoder=decoder) as video:
        assert video.num_frames == 40
        frames = video.frames(indices)
        crops = video.frames(indices, lambda frame: frame[3:30, 10:40])
        assert video.rotation == 0
    assert [read_number(frame) for frame in frames] == indices
    np.testing.assert_array_equal(frames, decode_all(path)[indices])
    np.testing.assert_array_equal(crops, frames[:, 3:30, 10:40])


@pytest.mark.parametrize("name", REFUSED)
def test_what_another_would_read_wrongly_is_refused_and_read_by_ours(
    name: str, folder: Path
) -> None:
    encoding, reasons = REFUSED[name]
    path = write_numbered(folder / name, 40, **encoding)
    with open_video(path) as video:
        assert [read_number(frame) for frame in video.frames(range(40))] == list(range(40))
    for decoder, reason in reasons.items():
        with pytest.raises(VideoDecodeError, match=f"{decoder} does not read .*{reason}"):
            open_video(path, decoder=decoder)


def test_decord_itself_is_wrong_where_it_is_refused(folder: Path) -> None:
    decord = pytest.importorskip("decord")
    path = folder / "h264_for_decord.avi"
    write_numbered(path, 40, b_frames=3)
    reader = decord.VideoReader(str(path), num_threads=1)
    frames = reader.get_batch([30, 12, 35])
    frames = frames.asnumpy() if hasattr(frames, "asnumpy") else frames.numpy()
    assert [read_number(frame) for frame in frames] != [30, 12, 35]
    with open_video(path) as video:
        assert [read_number(frame) for frame in video.frames([30, 12, 35])] == [30, 12, 35]


def test_intra_refresh_is_where_torchcodec_differs_and_ours_is_right(folder: Path) -> None:
    path = write_numbered(folder / "refresh.mp4", 48, gop=20, options=INTRA_REFRESH)
    installed("torchcodec", path)
    expected = decode_all(path)
    with open_video(path) as ours, open_video(path, decoder="torchcodec") as other:
        for index in (45, 21, 30):
            np.testing.assert_array_equal(ours.frames([index])[0], expected[index])
        differ = [(other.frames([i])[0] != expected[i]).any() for i in (45, 21, 30)]
    assert any(differ)


@pytest.mark.parametrize("decoder", OTHERS)
def test_a_member_of_a_tar(decoder: str, folder: Path) -> None:
    path = write_numbered(folder / f"in_tar_{decoder}.mp4", 30, b_frames=2)
    installed(decoder, path)
    with tarfile.open(folder / f"{decoder}.tar", "w") as tar:
        tar.add(path, "v.mp4")
    with open_video(f"{folder}/{decoder}.tar::v.mp4", root=folder, decoder=decoder) as video:
        assert [read_number(frame) for frame in video.frames([29, 4])] == [29, 4]


@pytest.mark.parametrize("decoder", OTHERS)
@pytest.mark.parametrize("path", REAL_CLIPS[::5], ids=lambda path: path.stem)
def test_real_clips(path: Path, decoder: str) -> None:
    installed(decoder, path)
    with open_video(path) as ours, open_video(path, decoder=decoder) as other:
        indices = random.Random(1).choices(range(ours.num_frames), k=10)
        np.testing.assert_array_equal(ours.frames(indices), other.frames(indices))


@pytest.mark.parametrize("decoder", OTHERS)
def test_a_missing_decoder_is_named(
    decoder: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_numbered(folder / f"missing_{decoder}.mp4", 4)
    monkeypatch.setitem(sys.modules, decoder, None)
    if decoder == "torchcodec":
        monkeypatch.setitem(sys.modules, "torchcodec.decoders", None)
    with pytest.raises(ConfigError, match=f"data.decoder={decoder}: cannot be imported"):
        open_video(path, decoder=decoder)


def test_pytorchvideo_does_not_spoil_decord(folder: Path) -> None:
    decord = pytest.importorskip("decord")
    path = write_numbered(folder / "bridge.mp4", 10)
    decord.bridge.set_bridge("torch")  # what importing pytorchvideo.data does
    try:
        with open_video(path, decoder="decord") as video:
            assert read_number(video.frames([6])[0]) == 6
    finally:
        decord.bridge.set_bridge("native")
