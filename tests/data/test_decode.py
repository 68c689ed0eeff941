"""Every frame asked for is the frame that plain decoding gives, or there is a VideoDecodeError."""

from __future__ import annotations

import os
import pickle
import random
import tarfile
import time
import wave
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.videos import decode_all, numbered_frame, read_number, write_numbered
from videogn.data import pyav_reader
from videogn.data.decode import is_video, open_video
from videogn.errors import ConfigError, VideoDecodeError

REAL_CLIPS = sorted((Path(__file__).parents[3] / "shared" / "real_clips").glob("*/*.m*"))
OPEN_GOP = {"x264-params": "open-gop=1:keyint=12:min-keyint=6:scenecut=0"}
# With intra refresh, frames right after a "keyframe" are not decodable from there.
INTRA_REFRESH = {"x264-params": "intra-refresh=1:keyint=20"}

X265 = "log-level=none:bframes=3:keyint=12"
VP9_ALTREF = {"cpu-used": "8", "auto-alt-ref": "6", "lag-in-frames": "25"}
B_PYRAMID = "b-pyramid=normal:bframes=8:b-adapt=0:ref=6"
NO_REORDER_HINT = (
    "bframes=3:bitstream-restriction=0:b-adapt=0"  # the decoder has to guess the delay
)

FRAGMENTS = {"movflags": "frag_keyframe+empty_moov"}

HEALTHY = {
    "gop1.mp4": {"gop": 1},
    "gop3_b.mp4": {"gop": 3, "b_frames": 2},
    "gop12.mp4": {"gop": 12},
    "gop250.mp4": {"gop": 250},
    "b.mp4": {"b_frames": 3},
    "open_gop.mp4": {"b_frames": 4, "options": OPEN_GOP},
    "intra_refresh.mp4": {"gop": 20, "options": INTRA_REFRESH},
    "fragments.mp4": {"b_frames": 2, "container_options": FRAGMENTS},
    "b.mkv": {"b_frames": 3},
    "b.flv": {"b_frames": 3},
    "mpeg4.avi": {"codec": "mpeg4"},
    "mpeg4_b.avi": {"codec": "mpeg4", "b_frames": 2},
    "h264.avi": {"b_frames": 3},
    "b.ts": {"b_frames": 3},
    "open_gop.ts": {"b_frames": 4, "options": OPEN_GOP},
    "mpeg2.ts": {"codec": "mpeg2video", "b_frames": 2},
    "mpeg2.mpg": {"codec": "mpeg2video", "b_frames": 2},
    "wmv2.wmv": {"codec": "wmv2"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"cpu-used": "8"}},
    "vp8.webm": {"codec": "libvpx", "options": {"auto-alt-ref": "1", "lag-in-frames": "16"}},
    "raw.h264": {"b_frames": 3},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=0"}},
    "hevc_open_gop.mkv": {"codec": "libx265", "options": {"x265-params": f"{X265}:open-gop=1"}},
    "raw.hevc": {"codec": "libx265", "options": {"x265-params": X265}},
    "av1.mp4": {"codec": "libsvtav1", "options": {"preset": "12"}},
    "vp9_altref.webm": {"codec": "libvpx-vp9", "options": VP9_ALTREF},
    "mjpeg.avi": {"codec": "mjpeg", "options": {"strict": "unofficial"}},
    "msmpeg4.avi": {"codec": "msmpeg4v3"},
    "ffv1.mkv": {"codec": "ffv1"},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "flv1.flv": {"codec": "flv"},
    "b.mov": {"b_frames": 3},
    "b.m2ts": {"b_frames": 3, "container_options": {"mpegts_m2ts_mode": "1"}},
    "interlaced.mp4": {"b_frames": 2, "options": {"x264-params": "tff=1:keyint=12"}},
    "b_pyramid.mp4": {"gop": 48, "options": {"x264-params": B_PYRAMID}},
    "no_reorder_hint.mp4": {"b_frames": 3, "options": {"x264-params": NO_REORDER_HINT}},
    "starts_late.mp4": {"times": range(30, 78), "b_frames": 2},
    "vfr.mp4": {"times": [n * n for n in range(48)]},
    "vfr.mkv": {"times": [n * n for n in range(48)]},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def mp4(folder: Path) -> Path:
    return write_numbered(folder / "plain.mp4", 60, b_frames=2)


def assert_exact(path: Path) -> None:
    expected = decode_all(path)
    count = len(expected)
    shuffled = random.Random(0).sample(range(count), count)
    with open_video(path) as video:
        assert video.num_frames == count
        for index in shuffled[:40]:
            np.testing.assert_array_equal(video.frames([index])[0], expected[index])
        np.testing.assert_array_equal(video.frames(shuffled), expected[shuffled])
        strided = list(range(count // 3, count, 2))
        np.testing.assert_array_equal(video.frames(strided), expected[strided])


@pytest.mark.parametrize("name", HEALTHY)
def test_every_frame_is_exact_in_any_order(name: str, folder: Path) -> None:
    path = write_numbered(folder / name, 48, **HEALTHY[name])
    assert_exact(path)
    with open_video(path) as video:
        assert [read_number(frame) for frame in video.frames(range(48))] == list(range(48))


def test_frames_before_an_edit_list_do_not_count(folder: Path, mp4: Path) -> None:
    # A stream copy of frames 24..59 that shows only from frame 30 on.
    path = folder / "trimmed.mp4"
    options = {"avoid_negative_ts": "disabled"}
    with av.open(str(mp4)) as source, av.open(str(path), "w", options=options) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        unit = round(1 / (30 * (source.streams.video[0].time_base or 1)))
        for packet in source.demux(video=0):
            if packet.pts is not None and packet.dts is not None and packet.pts >= 24 * unit:
                packet.pts -= 30 * unit
                packet.dts -= 30 * unit
                packet.stream = stream
                target.mux(packet)
    assert_exact(path)
    with open_video(path) as video:
        assert [read_number(frame) for frame in video.frames(range(30))] == list(range(30, 60))


def test_a_rotated_phone_video_is_read_as_stored(folder: Path, mp4: Path) -> None:
    path = folder / "rotated.mp4"
    with av.open(str(mp4)) as source, av.open(str(path), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        stream.set_display_rotation(-90)  # counterclockwise
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    assert_exact(path)
    with open_video(path) as rotated, open_video(mp4) as plain:
        np.testing.assert_array_equal(rotated.frames([7]), plain.frames([7]))
        assert (rotated.rotation, plain.rotation) == (90, 0)


def test_a_member_of_a_tar(folder: Path, mp4: Path) -> None:
    other = write_numbered(folder / "other.avi", 20, codec="mpeg4")
    with tarfile.open(folder / "shard.tar", "w") as tar:
        tar.add(other, "a/other.avi")
        tar.add(mp4, "plain.mp4")
    for member, file in (("plain.mp4", mp4), ("a/other.avi", other)):
        path = f"{folder}/shard.tar::{member}"
        expected = decode_all(file)
        with open_video(path, root=folder) as video:
            assert video.num_frames == len(expected)
            for indices in ([3], [19, 2, 11], range(20)):
                np.testing.assert_array_equal(video.frames(indices), expected[indices])
    with pytest.raises(VideoDecodeError, match="outside the video root"):
        open_video(path, root=folder / "elsewhere")
    with pytest.raises(VideoDecodeError, match="no such"):
        open_video(f"{folder}/shard.tar::nothing.mp4")


def test_one_frame(folder: Path) -> None:
    assert_exact(write_numbered(folder / "one.mp4", 1))


def test_ten_bit_444_of_odd_size(folder: Path) -> None:
    path = folder / "odd.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = 61, 43, "yuv444p10le"
        for number in range(20):
            image = np.ascontiguousarray(numbered_frame(number)[:43, :61])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    assert_exact(path)


@pytest.mark.parametrize("path", REAL_CLIPS[::4], ids=lambda path: path.stem)
def test_real_clips(path: Path) -> None:
    expected = decode_all(path)
    indices = random.Random(0).choices(range(len(expected)), k=30)
    with open_video(path) as video:
        assert video.num_frames == len(expected)
        np.testing.assert_array_equal(video.frames(indices), expected[indices])


@settings(max_examples=25, deadline=None)
@given(indices=st.lists(st.integers(0, 59), max_size=12))
def test_indices_may_repeat_and_need_no_order(mp4: Path, indices: list[int]) -> None:
    with open_video(mp4) as video:
        frames = video.frames(indices)
    assert frames.shape == (len(indices), 64, 64, 3)
    assert frames.dtype == np.uint8
    assert [read_number(frame) for frame in frames] == indices


@pytest.mark.parametrize("index", [-1, 60, 10**6])
def test_an_index_out_of_range_is_named(mp4: Path, index: int) -> None:
    with open_video(mp4) as video, pytest.raises(IndexError, match=f"frame {index} of 60"):
        video.frames([0, index])


def test_only_wanted_frames_are_converted_and_no_more_decoded_than_needed(mp4: Path) -> None:
    with open_video(mp4) as video:  # keyframes at 0, 12, 24, ..., with B-frames between
        video.frames([28, 30, 28])
        assert video.stats.converted == 2
        assert video.stats.skipped >= 1
        assert video.stats.decoded + video.stats.skipped <= 7  # 24, 25, ..., 30
    with open_video(mp4) as video:
        video.frames(range(60))
        assert (video.stats.decoded, video.stats.skipped, video.stats.converted) == (60, 0, 60)


def test_a_long_gap_before_a_keyframe_is_not_decoded(mp4: Path) -> None:
    with open_video(mp4) as video:
        frames = video.frames([2, 50, 51, 3])
        assert [read_number(frame) for frame in frames] == [2, 50, 51, 3]
        assert video.stats.decoded <= 4 + 4  # to frame 3, then from the keyframe at 48 to 51


def test_frames_are_mapped_as_they_come(mp4: Path) -> None:
    with open_video(mp4) as video:
        full = video.frames([9, 3, 3])
        crops = video.frames([9, 3, 3], lambda frame: frame[8:24, 32:])
    np.testing.assert_array_equal(crops, full[:, 8:24, 32:])


def test_a_reader_that_takes_too_long_is_stopped(mp4: Path) -> None:
    with open_video(mp4, timeout=60) as video:
        assert video.frames([59]).shape == (1, 64, 64, 3)

    def slow(frame: np.ndarray) -> np.ndarray:
        time.sleep(0.03)
        return frame

    with open_video(mp4, timeout=0.2) as video:
        with pytest.raises(VideoDecodeError, match=r"took more than 0\.2 s"):
            video.frames(range(60), slow)
        assert read_number(video.frames([5])[0]) == 5


def test_fps_and_decoder_names(mp4: Path) -> None:
    with open_video(mp4) as video:
        assert (video.fps, video.height, video.width) == (30, 64, 64)
    with pytest.raises(ConfigError, match="'opencv' is no decoder"):
        open_video(mp4, decoder="opencv")


def test_a_closed_reader_does_not_crash(mp4: Path) -> None:
    video = open_video(mp4)
    video.close()
    video.close()
    with pytest.raises((AssertionError, VideoDecodeError)):
        video.frames([0])


def bad_file(kind: str, folder: Path, mp4: Path) -> Path:
    path = folder / f"bad_{kind}.mp4"
    data = mp4.read_bytes()
    contents = {
        "empty": b"",
        "text": b"no video at all, only words\n" * 40,
        "letter G": b"G" + b"o" * 600,
        "random": random.Random(0).randbytes(4000),
        "header only": data[:40],
        "cut": data[: len(data) * 6 // 10],
        "playlist": b"#EXTM3U\n#EXTINF:1,\nplain.mp4\n",
        "concat": b"ffconcat version 1.0\nfile plain.mp4\n",
        "picture": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }
    if kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to(folder / "nowhere.mp4")
    return path


REASONS = {
    "empty": "does not begin like",
    "text": "does not begin like",
    "letter G": "does not begin like",
    "random": "does not begin like",
    "header only": "cannot be read",
    "cut": "cannot be read|no video stream",
    "playlist": "does not begin like",
    "concat": "does not begin like",
    "picture": "does not begin like",
    "folder": "not a regular file",
    "fifo": "not a regular file",
    "dangling link": "No such file",
    "missing": "No such file",
}


@pytest.mark.parametrize("kind", REASONS)
def test_what_is_no_video_is_refused(kind: str, tmp_path: Path, mp4: Path) -> None:
    path = bad_file(kind, tmp_path, mp4)
    with pytest.raises(VideoDecodeError, match=REASONS[kind]) as caught:
        open_video(path)
    assert caught.value.path == str(path)
    assert pickle.loads(pickle.dumps(caught.value)).reason == caught.value.reason


@pytest.mark.parametrize("address", ["http://host/a.mp4", "concat:a.mp4|b.mp4", "file:a.mp4"])
def test_an_address_is_refused(address: str) -> None:
    with pytest.raises(VideoDecodeError, match="is an address"):
        open_video(address)


def test_a_nul_in_the_path_is_refused() -> None:
    with pytest.raises(VideoDecodeError, match="null"):
        open_video("a\0b.mp4")


def test_a_cut_mp4_with_its_index_in_front_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    write_numbered(path, 60, container_options={"movflags": "faststart"})
    data = path.read_bytes()
    for part in (0.5, 0.8, 0.99):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(VideoDecodeError, match="of 60 frames found"):
            open_video(path)


@pytest.mark.parametrize("name", ["cut.avi", "cut.mkv", "cut.webm"])
def test_a_cut_file_whose_header_tells_its_size_is_refused(name: str, tmp_path: Path) -> None:
    codec = {"avi": "mpeg4", "mkv": "libx264", "webm": "libvpx-vp9"}[name[4:]]
    path = write_numbered(tmp_path / name, 24, codec=codec)
    data = path.read_bytes()
    with open_video(path) as video:
        assert video.num_frames == 24
    for part in (0.3, 0.6, 0.9):
        path.write_bytes(data[: int(len(data) * part)])
        with pytest.raises(VideoDecodeError, match=f"cut short .* of {len(data)} bytes"):
            open_video(path)


def test_a_live_recording_has_no_size_to_tell(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "live.mkv", 24, container_options={"live": "1"})
    assert_exact(path)


def test_a_damaged_packet_is_an_error_only_where_it_is_read(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "damaged.mp4", 48, gop=12)
    with av.open(str(path)) as container:
        places = [(p.pos or 0, p.size) for p in container.demux(video=0) if p.size]
    data = bytearray(path.read_bytes())
    start, size = places[12]
    data[start : start + size] = b"\xff" * size
    path.write_bytes(data)
    with open_video(path) as video:
        assert read_number(video.frames([40])[0]) == 40
        with pytest.raises(VideoDecodeError, match="cannot be read"):
            video.frames(range(48))
        assert read_number(video.frames([5])[0]) == 5


def test_audio_only_has_no_video_stream(tmp_path: Path) -> None:
    path = tmp_path / "audio.mkv"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoDecodeError, match="no video stream"):
        open_video(path)


def test_a_path_may_not_leave_the_root(tmp_path: Path, mp4: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "inside.mp4").write_bytes(mp4.read_bytes())
    (root / "link_inside.mp4").symlink_to(root / "inside.mp4")
    (root / "link_outside.mp4").symlink_to(mp4)
    for name in ("inside.mp4", "link_inside.mp4"):
        with open_video(root / name, root=root) as video:
            assert video.num_frames == 60
    for path in (root / "link_outside.mp4", root / ".." / mp4.name, mp4):
        with pytest.raises(VideoDecodeError, match="outside the video root"):
            open_video(path, root=root)


def test_frames_too_large_or_too_many_are_refused(
    tmp_path: Path, mp4: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "never_opened_before.mp4"
    path.write_bytes(mp4.read_bytes())
    monkeypatch.setattr(pyav_reader, "MAX_PIXELS", 64 * 64 - 1)
    with pytest.raises(VideoDecodeError, match="64x64 exceed"):
        open_video(path)
    monkeypatch.undo()
    monkeypatch.setattr(pyav_reader, "MAX_FRAMES", 59)
    with pytest.raises(VideoDecodeError, match="more than 59 frames"):
        open_video(path)


def test_a_codec_nobody_keeps_videos_in_is_not_read(tmp_path: Path) -> None:
    path = write_numbered(tmp_path / "ut.avi", 4, codec="utvideo")
    with pytest.raises(VideoDecodeError, match=r"codec utvideo is not read|cannot be read"):
        open_video(path)


def test_a_video_is_known_by_its_content(tmp_path: Path, mp4: Path) -> None:
    disguised = tmp_path / "notes.txt"
    disguised.write_bytes(mp4.read_bytes())
    assert is_video(disguised)
    icon = tmp_path / "icon.mp4"
    icon.write_bytes(b"\x00\x00\x01\x00" + bytes(60))
    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
    photo = tmp_path / "photo.mp4"
    photo.write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(60))
    for other in (icon, tmp_path / "sound.avi", photo, tmp_path):
        assert not is_video(other)
    with pytest.raises(FileNotFoundError):
        is_video(tmp_path / "missing.mp4")
