from __future__ import annotations

import csv
import errno
import json
import random
import subprocess
import sys
import tarfile
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.error import FFmpegError
from av.video.frame import PictureType

from data_prep import encode as encode_module
from data_prep.__main__ import main
from data_prep.encode import Settings, encode, target_size
from data_prep.reencode import reencode_video, renamed_targets, target_of
from data_prep.work import BadItemError, StopWorkError
from tests.data_prep.bad_videos import write_bad_videos
from tests.data_prep.test_verify import rows, write_root
from tests.videos import read_number, write_numbered
from videogn.data.pyav_reader import PyAVReader

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(short_side=48, gop=8, crf=20, preset="veryfast")


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    return folder


def write_gradient(path: Path, width: int, height: int, frames: int = 6, **context: Any) -> Path:
    """A still picture whose four corners differ, so that a wrong turn or colour shows."""
    rows, columns = np.mgrid[0:height, 0:width]
    picture = np.stack([rows * 255 // height, columns * 255 // width, 0 * rows + 60], axis=-1)
    picture[: height // 4, : width // 4] = 250
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"crf": "8"})
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height = width, height
        stream.pix_fmt = context.pop("pix_fmt", "yuv420p")
        for name, value in context.items():
            setattr(stream.codec_context, name, value)
        for _ in range(frames):
            frame = av.VideoFrame.from_ndarray(picture.astype(np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def turn_in_header(path: Path, clockwise: int) -> None:
    """Writes the display matrix for that rotation into the track header of an mp4 file."""
    cos, sin = {90: (0, 1), 180: (-1, 0), 270: (0, -1)}[clockwise]
    content = bytearray(path.read_bytes())
    at = content.index(b"tkhd") + 4 + 40
    one = 1 << 16
    numbers = [cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30]
    content[at : at + 36] = b"".join(number.to_bytes(4, "big", signed=True) for number in numbers)
    path.write_bytes(content)


def encoded(source: Path, out: Path, settings: Settings = SETTINGS) -> PyAVReader:
    with PyAVReader(source) as reader:
        encode(reader, out, settings)
    return PyAVReader(out)


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((640, 480), 320, (426, 320)),
        ((480, 640), 320, (320, 426)),
        ((340, 256), 320, (340, 256)),
        ((341, 255), 320, (340, 254)),
        ((1920, 1080), 320, (568, 320)),
        ((640, 16), 320, (640, 16)),
        ((641, 321), 320, (640, 320)),
        ((17, 3), 320, (16, 2)),
        ((1, 1), 320, (2, 2)),
    ],
)
def test_sides_become_even_and_never_larger(
    size: tuple[int, int], short_side: int, expected: tuple[int, int]
) -> None:
    assert target_size(*size, short_side) == expected


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("b.mp4", {"b_frames": 3, "gop": 5}),
        ("open.mp4", {"b_frames": 4, "options": {"x264-params": "open-gop=1:keyint=6"}}),
        ("mpeg4.avi", {"codec": "mpeg4"}),
        ("b.ts", {"b_frames": 3}),
        ("raw.h264", {}),
        ("one.mp4", {"num_frames": 1}),
    ],
)
def test_the_new_file_holds_the_same_frames(
    videos: Path, tmp_path: Path, name: str, options: dict[str, Any]
) -> None:
    source = write_numbered(videos / name, options.pop("num_frames", 21), **options)
    with PyAVReader(source) as old, encoded(source, tmp_path / "new.mp4") as new:
        assert new.num_frames == old.num_frames
        assert (new.height, new.width) == (48, 48)
        big = Settings(short_side=64, gop=8, crf=20, preset="veryfast")
    with encoded(source, tmp_path / "big.mp4", big) as new:
        frames = new.frames(range(new.num_frames))
        assert [read_number(frame) for frame in frames] == list(range(new.num_frames))
        assert new.codec == "h264"
        assert not new.index.is_open
        assert not new.index.is_trimmed


def test_keyframes_come_by_gop_and_not_where_the_source_has_them(
    videos: Path, tmp_path: Path
) -> None:
    source = write_gradient(videos / "a.mp4", 64, 64, frames=20, gop_size=1)
    with PyAVReader(source) as old:
        assert len(old.index.keyframes) == 20
    with encoded(source, tmp_path / "new.mp4") as new:
        assert len(new.index.keyframes) == 3
        with av.open(new.path) as container:
            assert container.streams.video[0].codec_context.pix_fmt == "yuv420p"
            kinds = [PictureType(frame.pict_type).name for frame in container.decode(video=0)]
    assert "B" in kinds


def test_times_are_kept_and_begin_at_zero(videos: Path, tmp_path: Path) -> None:
    times = [3, 4, 5, 9, 10, 22, 23, 25, 60]
    for name in ("vfr.mp4", "vfr.mkv"):
        source = write_numbered(videos / name, len(times), b_frames=2, times=times)
        with encoded(source, tmp_path / "new.mp4") as new, av.open(new.path) as container:
            found = [frame.time for frame in container.decode(video=0)]
        assert found == pytest.approx([(time - 3) / 30 for time in times], abs=0.0011)


@pytest.mark.parametrize("clockwise", [90, 180, 270])
def test_turned_videos_become_upright(videos: Path, tmp_path: Path, clockwise: int) -> None:
    source = write_gradient(videos / "a.mp4", 96, 64)
    with PyAVReader(source) as reader:
        stored = reader.frames([2])[0]
    turn_in_header(source, clockwise)
    with PyAVReader(source) as reader:
        assert reader.rotation == clockwise
    large = Settings(short_side=64, gop=8, crf=8, preset="veryfast")
    with encoded(source, tmp_path / "new.mp4", large) as new:
        assert new.rotation == 0
        upright = np.rot90(stored, -clockwise // 90)
        assert np.abs(new.frames([2])[0].astype(int) - upright).mean() < 2


@pytest.mark.parametrize(
    "context",
    [{}, {"pix_fmt": "yuvj420p"}, {"colorspace": 1}, {"pix_fmt": "yuv444p"}, {"colorspace": 5}],
    ids=str,
)
def test_colours_stay(videos: Path, tmp_path: Path, context: dict[str, Any]) -> None:
    source = write_gradient(videos / "a.mp4", 96, 64, **context)
    large = Settings(short_side=64, gop=8, crf=8, preset="veryfast")
    with PyAVReader(source) as old, encoded(source, tmp_path / "new.mp4", large) as new:
        difference = old.frames([2])[0].astype(int) - new.frames([2])[0]
    assert abs(difference.mean()) < 1
    assert np.abs(difference).mean() < 3


def test_a_fault_leaves_no_file(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bad_videos(videos)
    out = tmp_path / "new"
    stale = out / "videos" / "hole.mp4"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"of an earlier state")
    with pytest.raises(BadItemError, match="Invalid data") as error:
        reencode_video("hole.mp4", videos=videos, out=out, settings=SETTINGS, renamed={})
    assert error.value.kind == "decoder error"
    assert list(stale.parent.iterdir()) == []

    source = write_numbered(videos / "a.mp4", 5)

    def no_room(*_: object) -> None:
        raise FFmpegError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(encode_module, "_sync", no_room)
    with pytest.raises(StopWorkError, match=r"No space left on device.*make room"):
        encoded(source, out / "videos" / "a.mp4")
    monkeypatch.undo()

    def one_frame(reader: PyAVReader, *rest: Any) -> Any:
        return list(whole(reader, *rest))[:1]

    whole = encode_module._frames
    monkeypatch.setattr(encode_module, "_frames", one_frame)
    with pytest.raises(BadItemError, match="1 of its 5 frames could be written"):
        encoded(source, out / "videos" / "a.mp4")
    assert list(stale.parent.iterdir()) == []


def test_times_that_were_not_kept_are_noticed(
    videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_numbered(videos / "a.mp4", 5, times=[0, 1, 2, 6, 7])

    def evenly(reader: PyAVReader, *rest: Any) -> Any:
        for number, frame in enumerate(whole(reader, *rest)):
            frame.pts, frame.time_base = number, Fraction(1, 30)
            yield frame

    whole = encode_module._frames
    monkeypatch.setattr(encode_module, "_frames", evenly)
    with pytest.raises(BadItemError, match="at their times"):
        encoded(source, tmp_path / "new.mp4")


def test_targets_never_collide_and_never_leave_the_folder() -> None:
    paths = [
        "x/a.mp4",
        "x/a.avi",
        "x/a.webm",
        "x/A.mp4",
        "b.mkv",
        "s.tar::x/a.mp4",
        "t.tar::x/a.mp4",
        "t.tar::../../etc/c.mp4",
        "t.tar::/d.mp4",
        "no suffix",
        "x/a.avi.mp4",
        "./b.mp4",
    ]
    renamed = renamed_targets(paths)
    targets = [target_of(path, renamed) for path in paths]
    assert targets[0] == "x/a-2.mp4"  # on some file systems A is a
    assert targets[3] == "x/A.mp4"
    assert len({target.casefold() for target in targets}) == len(paths)
    assert all(t.endswith(".mp4") and ".." not in t and not t.startswith("/") for t in targets)
    assert targets[7:10] == ["etc/c.mp4", "d.mp4", "no suffix.mp4"]
    assert renamed_targets(paths[::-1]) == renamed
    assert renamed["x/a.webm"] == "x/a.webm.mp4"
    assert renamed["s.tar::x/a.mp4"] == "s/x/a.mp4"
    assert renamed_targets(["a.avi", "b.mp4"]) == {}


def reencode(root: Path, out: Path, *words: str) -> int:
    small = ["--short-side", "48", "--gop", "8", "--preset", "ultrafast", "--jobs", "1"]
    return main(["reencode", str(root), "--out", str(out), *small, *words])


def test_a_new_root_has_the_same_rows(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("a.mkv", "c.mp4"):
        write_numbered(videos / name, 9)
    with tarfile.open(videos / "s.tar", "w") as tar:
        tar.add(videos / "c.mp4", "x/m.mp4")
    root, out = tmp_path / "root", tmp_path / "new"
    write_root(
        root,
        {"train": ["a.mkv", "absent.mp4", "s.tar::x/m.mp4", "a.mkv"], "val": ["c.mp4", "gone.avi"]},
    )
    before = sorted((path, path.stat().st_mtime_ns) for path in tmp_path.rglob("*"))
    assert reencode(root, out, "--dry-run") == 0
    assert "0 are done, 5 would be written" in capsys.readouterr().out
    assert not out.exists()
    (out / "videos").mkdir(parents=True)
    (out / "videos" / ".absent.mp4.part").touch()  # of a process that was killed
    assert reencode(root, out) == 3
    assert {path.name for path in (out / "videos").iterdir()} == {"a.mp4", "c.mp4", "x"}
    printed = capsys.readouterr()
    assert "2 of 5 videos failed, more than --max-bad 0.01" in printed.err
    assert "  warning: 1 of 2 classes without a training video: 'other'\n" in printed.out
    after = [pair for pair in before if pair[0].stat().st_mtime_ns == pair[1]]
    assert [path for path, _ in after if path != tmp_path] == [
        path for path, _ in before if path != tmp_path
    ]

    train, val = rows(out / "train.csv"), rows(out / "val.csv")
    assert [row["path"] for row in train] == ["a.mp4", "x/m.mp4", "a.mp4"]
    assert [(row["path"], row["ok"]) for row in val] == [("c.mp4", "1"), ("gone.mp4", "0")]
    assert train[0]["note"] == "n,a.mkv"
    assert (train[0]["num_frames"], train[0]["height"], train[0]["ok"]) == ("9", "48", "1")
    assert [(row["split"], row["path"]) for row in rows(out / "failed.csv")] == [
        ("train", "absent.mp4"),
        ("val", "gone.avi"),
    ]
    summary = json.loads((out / "summary.json").read_text())["reencode"]
    assert (summary["short_side"], summary["gop"], summary["crf"]) == (48, 8, 20)
    assert (summary["videos"], summary["failed"], summary["frames"]) == (3, 2, 27)
    assert summary["versions"]["av"] == av.__version__
    assert (out / "source.txt").read_text() == "videos\n"

    # The new root can be verified and read, and nothing of it is done again but what is missing.
    assert main(["verify", str(out), "--jobs", "1", "--max-bad", "0.3"]) == 0
    journal = out / "reencode.jsonl"
    assert len(journal.read_text().splitlines()) == 5
    (out / "videos" / "a.mp4").unlink()
    assert reencode(root, out, "--max-bad", "0.5") == 0
    assert [json.loads(line)["path"] for line in journal.read_text().splitlines()[5:]] == ["a.mkv"]
    assert (out / "videos" / "a.mp4").is_file()


def test_other_settings_and_foreign_folders_are_refused(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_numbered(videos / "a.mp4", 3)
    root = tmp_path / "root"
    write_root(root, {"train": ["a.mp4"]})
    for out, message in (
        (root, "which is read"),
        (root / "new", "which is read"),
        (videos / "new", "which is read"),
        (tmp_path, "which is read"),
    ):
        assert reencode(root, out) == 3
        assert message in capsys.readouterr().err
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "val.csv").write_text("path,label\n")
    assert reencode(root, tmp_path / "other") == 3
    assert "is a data root of another kind" in capsys.readouterr().err
    assert {path.name for path in (tmp_path / "other").iterdir()} == {"val.csv"}

    out = tmp_path / "new"
    assert reencode(root, out, "--shard", "1/2") == 0
    assert not (out / "train.csv").exists()
    assert reencode(root, out, "--crf", "30") == 3
    assert "'crf': 20" in capsys.readouterr().err
    done = "a.mp4" in (out / "reencode.1-of-2.jsonl").read_text()
    assert reencode(root, out, "--write") == (0 if done else 3)
    assert reencode(root, out, "--shard", "2/2") == 0
    assert reencode(root, out, "--write") == 0
    with (out / "train.csv").open(newline="") as file:
        assert len(list(csv.reader(file))) == 2


@pytest.mark.slow
def test_kills_leave_whole_videos_only_and_none_is_written_twice(
    tmp_path: Path, videos: Path
) -> None:
    first = write_gradient(videos / "first.mp4", 320, 240, frames=60)
    names = [f"{number}.mp4" for number in range(60)]
    for name in names:
        (videos / name).hardlink_to(first)
    root, out = tmp_path / "root", tmp_path / "new"
    write_root(root, {"train": names})
    command = [sys.executable, "-m", "data_prep", "reencode", str(root), "--out", str(out)]
    journal, rng = out / "reencode.jsonl", random.Random(0)
    for kill in range(1, 5):
        process = subprocess.Popen([*command, "--jobs", "2"], cwd=ROOT, stderr=subprocess.DEVNULL)
        while not journal.exists() or journal.read_bytes().count(b"\n") < 10 * kill:
            assert process.poll() is None
            time.sleep(rng.uniform(0, 0.05))
        process.kill()
        process.wait()
        for path in (out / "videos").glob("*.mp4"):
            with PyAVReader(path) as reader:
                assert reader.num_frames == 60
    assert subprocess.run([*command, "--jobs", "2"], cwd=ROOT, check=True).returncode == 0
    done = [json.loads(line)["path"] for line in journal.read_text().splitlines()]
    assert sorted(done) == sorted(names)
    assert sorted(path.name for path in (out / "videos").iterdir()) == sorted(names)
