from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.__main__ import main
from data_prep.journal import Records
from data_prep.verify import COLUMNS, kind_of, verify_video
from data_prep.work import BadItemError
from tests.data_prep.bad_videos import write_bad_videos
from tests.videos import write_numbered
from videogn.data.decode import open_video
from videogn.data.frame_index import FrameIndex
from videogn.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]


def write_root(root: Path, splits: dict[str, list[str]], label: str = "a b") -> None:
    root.mkdir(parents=True, exist_ok=True)
    (root / "classes.txt").write_text(f"{label}\nother\n", encoding="utf-8")
    (root / "source.txt").write_text("../videos\n", encoding="utf-8")
    for split, paths in splits.items():
        with (root / f"{split}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["path", "label", "note", "ok"])
            writer.writerows([path, label, f"n,{path}", "stale"] for path in paths)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def videos(tmp_path: Path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    write_numbered(folder / "a.mp4", 20, gop=8)
    write_numbered(folder / "b.mkv", 7)
    write_numbered(folder / "c.avi", 9, codec="mpeg4")
    return folder


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    folder = tmp_path_factory.mktemp("bad") / "videos"
    return folder, write_bad_videos(folder)


def verify(root: Path, *words: str, jobs: int = 1) -> int:
    return main(["verify", str(root), "--jobs", str(jobs), *words])


def test_a_record_tells_what_is_in_a_video(videos: Path) -> None:
    found = verify_video("a.mp4", videos=videos, fast=False)
    index = FrameIndex.from_text(found.pop("index"))
    assert index.num_frames == 20
    assert found == {
        "fast": False,
        "num_frames": 20,
        "fps": 30.0,
        "width": 64,
        "height": 64,
        "duration": 0.667,
        "codec": "h264",
        "bytes": (videos / "a.mp4").stat().st_size,
        "keyframes": 3,
        "gop": 8,
        "decoded": 20,
        "corrupt": 0,
        "rotation": 0,
    }
    assert "decoded" not in verify_video("a.mp4", videos=videos, fast=True)


def test_every_fault_has_its_kind(bad: tuple[Path, dict[str, str]]) -> None:
    folder, kinds = bad
    assert len(kinds) >= 20
    found = {}
    for name in kinds:
        with pytest.raises(BadItemError) as error:
            verify_video(name, videos=folder, fast=False)
        found[name] = error.value.kind
    assert found == kinds


def test_a_fault_in_the_middle_is_told_with_its_frame(bad: tuple[Path, dict[str, str]]) -> None:
    folder, _ = bad
    with pytest.raises(BadItemError, match="frame 9 of 40 cannot be read: Invalid") as error:
        verify_video("hole.mp4", videos=folder, fast=False)
    assert error.value.values["decoded"] == 9
    assert error.value.values["num_frames"] == 40
    with pytest.raises(BadItemError, match="1 of 12 frames are damaged, the first is frame"):
        verify_video("scratch.mp4", videos=folder, fast=False)


def test_fewer_frames_than_the_index_lists_are_found(
    videos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from videogn.data.pyav_reader import PyAVReader

    def first_three(self: PyAVReader) -> Any:
        yield from list(whole(self))[:3]

    whole = PyAVReader.decode_all
    monkeypatch.setattr(PyAVReader, "decode_all", first_three)
    with pytest.raises(BadItemError, match="yields 3 of the 20 frames it lists") as error:
        verify_video("a.mp4", videos=videos, fast=False)
    assert error.value.kind == "cut short"


def test_kinds_of_reasons_that_no_test_file_gives() -> None:
    assert kind_of("frames of 9000x9000 exceed 1 pixels", is_open=False) == "too large"
    assert kind_of("took more than 3 s to read", is_open=True) == "time-out"
    assert kind_of("cannot be read: Permission denied", is_open=False) == "unreadable"
    assert kind_of("cannot be read: Cannot allocate memory", is_open=True) == "out of memory"


def test_verify_adds_columns_and_keeps_every_row(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    (videos / "bad.mp4").write_text("no video")
    names = ["a.mp4", "bad.mp4", "b.mkv", "a.mp4"]
    write_root(root, {"train": names, "val": ["c.avi", "bad.mp4"]})
    assert verify(root, "--max-bad", "0.3") == 0

    train = rows(root / "train.csv")
    assert [row["path"] for row in train] == names
    assert list(train[0]) == ["path", "label", "note", *COLUMNS]
    assert train[1]["note"] == "n,bad.mp4"
    assert [row["ok"] for row in train] == ["1", "0", "1", "1"]
    assert train[1]["error"] == "does not begin like any known video container"
    assert [row["num_frames"] for row in train] == ["20", "", "7", "20"]
    assert train[0] == train[3]
    assert [row["ok"] for row in rows(root / "val.csv")] == ["1", "0"]
    assert [(row["split"], row["path"], row["kind"]) for row in rows(root / "bad.csv")] == [
        ("train", "bad.mp4", "not media"),
        ("val", "bad.mp4", "not media"),
    ]
    summary = json.loads((root / "summary.json").read_text())["verify"]
    assert (summary["videos"], summary["ok"], summary["bad"]) == (4, 3, 1)
    assert summary["frames"] == 20 + 7 + 9
    assert summary["kinds"] == {"not media": 1}
    assert "4 of 4 videos verified, 3 good, 1 bad; 36 frames, 1.2 s, " in capsys.readouterr().out

    # The index that training reads gives the same frames as the file.
    manifest = read_manifest(root, "train")
    index = manifest.index(2)
    assert index is not None
    with open_video(videos / "b.mkv", index=index) as given, open_video(videos / "b.mkv") as own:
        assert np.array_equal(given.frames([5, 1]), own.frames([5, 1]))

    before = (root / "verify.jsonl").read_bytes()
    assert verify(root, "--max-bad", "0.3") == 0
    assert "verify: 4/4 videos, 1 bad; nothing was left to do\n" in capsys.readouterr().err
    assert (root / "verify.jsonl").read_bytes() == before
    assert rows(root / "train.csv") == train


def test_names_are_told_readably_and_cannot_move_the_cursor(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["kl\u00e4sse \x1b[31m.mp4"]})
    assert verify(root) == 3
    assert "\n  kl\u00e4sse \\x1b[31m.mp4: cannot be read" in capsys.readouterr().err


def test_too_many_bad_videos_are_an_error_and_results_are_written_all_the_same(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["a.mp4", "absent.mp4"]})
    assert verify(root) == 3
    error = capsys.readouterr().err
    assert "1 of 2 videos are bad, more than --max-bad 0.01" in error
    assert "absent.mp4: cannot be read: No such file or directory" in error
    assert [row["ok"] for row in rows(root / "train.csv")] == ["1", "0"]
    # Found again, the file is verified again.
    shutil.copyfile(videos / "a.mp4", videos / "absent.mp4")
    assert verify(root) == 0
    assert [row["ok"] for row in rows(root / "train.csv")] == ["1", "1"]
    assert rows(root / "bad.csv") == []


def test_dropped_rows_leave_train_only_and_stay_on_record(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["a.mp4", "absent.mp4", "b.mkv"], "val": ["absent.mp4"]})
    assert verify(root, "--drop-bad") == 3
    assert "would take 1 of 3 rows out of train.csv" in capsys.readouterr().err
    assert len(rows(root / "train.csv")) == 3
    for _ in range(2):  # the second time there is nothing more to drop
        verify(root, "--drop-bad", "--max-bad", "0.5")
        assert [row["path"] for row in rows(root / "train.csv")] == ["a.mp4", "b.mkv"]
        assert [row["path"] for row in rows(root / "val.csv")] == ["absent.mp4"]
        bad = rows(root / "bad.csv")
        assert [(row["split"], row["dropped"], row["path"]) for row in bad] == [
            ("train", "1", "absent.mp4"),
            ("val", "0", "absent.mp4"),
        ]
        assert bad[0]["note"] == "n,absent.mp4"


def test_dropped_rows_come_back_when_their_videos_are_good_again(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["a.mp4", "gone.mp4", "absent.mp4", "b.mkv"]})
    words = ("--drop-bad", "--max-bad", "0.6")
    assert verify(root, *words) == 0
    whole = rows(root / "train.csv")
    shutil.copyfile(videos / "a.mp4", videos / "absent.mp4")
    assert verify(root) == 0  # a plain run looks at the rows there are
    assert "2 rows dropped before, listed in bad.csv; --retry-bad" in capsys.readouterr().out
    assert rows(root / "train.csv") == whole

    assert verify(root, "--retry-bad", "--dry-run") == 0
    assert "4 videos under" in capsys.readouterr().out
    assert verify(root, "--retry-bad") == 0  # what is still bad was dropped and is no error
    printed = capsys.readouterr().out
    assert "3 of 3 videos verified, 3 good, 0 bad" in printed
    assert "1 row dropped before came back into train.csv" in printed
    train = rows(root / "train.csv")
    assert train[:2] == whole
    assert [row["path"] for row in train] == ["a.mp4", "b.mkv", "absent.mp4"]
    assert (train[2]["note"], train[2]["ok"], train[2]["num_frames"]) == ("n,absent.mp4", "1", "20")
    left = [(row["path"], row["dropped"]) for row in rows(root / "bad.csv")]
    assert left == [("gone.mp4", "1")]


def test_a_new_index_forgets_what_was_dropped(tmp_path: Path, videos: Path) -> None:
    (videos / "walk").mkdir()
    shutil.move(videos / "a.mp4", videos / "walk" / "a.mp4")
    shutil.move(videos / "b.mkv", videos / "walk" / "b.mkv")
    (videos / "c.avi").unlink()
    root = tmp_path / "root"
    words = ["index", str(videos), "--out", str(root), "--val", "0"]
    assert main(words) == 0
    (videos / "walk" / "b.mkv").write_bytes(b"no video")
    assert verify(root, "--drop-bad", "--max-bad", "0.5") == 0
    assert [row["dropped"] for row in rows(root / "bad.csv")] == ["1"]
    assert main(words) == 0
    assert not (root / "bad.csv").exists()
    (root / "bad.csv").write_text("of,another,project\n")
    assert main(words) == 0
    assert (root / "bad.csv").exists()


def test_progress_begins_with_the_bad_videos_on_record(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["absent.mp4", "gone.mp4"]})
    assert verify(root) == 3
    write_root(root, {"train": ["absent.mp4", "gone.mp4", "a.mp4"]})
    capsys.readouterr()
    assert verify(root) == 3
    assert "verify: 3/3 videos, 2 bad, " in capsys.readouterr().err
    assert verify(root, "--retry-bad") == 3
    assert "verify: 3/3 videos, 2 bad, " in capsys.readouterr().err


def test_a_class_left_without_a_training_video_is_named(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["absent.mp4", "a.mp4"]}, label="walk")
    table = root / "train.csv"
    table.write_text(table.read_text().replace("a.mp4,walk", "a.mp4,1"))  # an id
    assert verify(root, "--max-bad", "0.5") == 0
    assert "warning" not in capsys.readouterr().out
    assert verify(root, "--drop-bad", "--max-bad", "0.5") == 0
    assert "  warning: 1 of 2 classes without a training video: 'walk'\n" in capsys.readouterr().out


def test_a_full_look_follows_a_fast_one_and_not_the_reverse(tmp_path: Path, videos: Path) -> None:
    root, journal = tmp_path / "root", tmp_path / "root" / "verify.jsonl"
    write_root(root, {"train": ["a.mp4"]})
    assert verify(root, "--fast") == 0
    assert Records(journal)["a.mp4"].values["fast"] is True
    assert json.loads((root / "summary.json").read_text())["verify"]["fast"] == 1
    assert verify(root) == 0
    assert Records(journal)["a.mp4"].values["decoded"] == 20
    assert verify(root, "--fast") == 0
    assert journal.read_bytes().count(b"\n") == 2


def test_shards_write_journals_and_a_last_call_the_columns(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["a.mp4", "b.mkv", "c.avi"]})
    before = (root / "train.csv").read_bytes()
    for number in (1, 2):
        assert verify(root, "--shard", f"{number}/2") == 0
        assert (root / "train.csv").read_bytes() == before
    assert {path.name for path in root.glob("verify*")} == {
        "verify.1-of-2.jsonl",
        "verify.2-of-2.jsonl",
    }
    assert verify(root, "--dry-run") == 0
    assert "3 videos under" in capsys.readouterr().out
    assert verify(root, "--write") == 0
    assert [row["ok"] for row in rows(root / "train.csv")] == ["1", "1", "1"]


def test_a_dry_run_writes_nothing(
    tmp_path: Path, videos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "root"
    write_root(root, {"train": ["a.mp4", "b.mkv"]})
    before = sorted(root.iterdir())
    assert verify(root, "--dry-run") == 0
    assert "0 are recorded, 2 would be decoded by 1 processes" in capsys.readouterr().out
    assert sorted(root.iterdir()) == before


def test_members_of_a_tar_are_verified(tmp_path: Path, videos: Path) -> None:
    with tarfile.open(videos / "s.tar", "w") as tar:
        tar.add(videos / "a.mp4", "x/a.mp4")
    root = tmp_path / "root"
    write_root(root, {"train": ["s.tar::x/a.mp4", "s.tar::absent.mp4"]})
    assert verify(root, "--max-bad", "0.5") == 0
    first, second = rows(root / "train.csv")
    assert (first["ok"], first["num_frames"]) == ("1", "20")
    assert second["error"] == "the tar holds no such regular file"
    record = Records(root / "verify.jsonl")["s.tar::x/a.mp4"]
    assert record.values["bytes"] == (videos / "a.mp4").stat().st_size


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_two_thousand_files_survive_kills_with_nothing_lost_or_done_twice(
    tmp_path: Path, videos: Path
) -> None:
    kinds = write_bad_videos(videos)
    good = sorted(path.name for path in videos.iterdir() if path.name[1:2] == ".")
    rng = random.Random(0)
    source = videos / "classes"
    for number in range(2000 - len(kinds)):
        name = good[number % len(good)]
        folder = source / f"class {number % 7}"
        folder.mkdir(parents=True, exist_ok=True)
        os.link(videos / name, folder / f"{number}{Path(name).suffix}")
    (source / "class 0" / "bad").mkdir()
    for name in kinds:
        if (videos / name).exists() or (videos / name).is_symlink():
            (videos / name).rename(source / "class 0" / "bad" / name)
    root = tmp_path / "root"
    words = [str(source), "--out", str(root), "--label-from", "folder", "--val", "0.1"]
    assert main(["index", *words]) == 0
    with (root / "train.csv").open("a", encoding="utf-8", newline="") as file:
        width = len(next(csv.reader([(root / "train.csv").read_text().splitlines()[0]])))
        listed = {row["path"] for split in ("train", "val") for row in rows(root / f"{split}.csv")}
        for name in kinds:
            path = f"class 0/bad/{name}"
            if path not in listed:
                csv.writer(file).writerow([path, "class 0", *[""] * (width - 2)])
    paths = {row["path"] for split in ("train", "val") for row in rows(root / f"{split}.csv")}
    assert len(paths) == 2000

    journal = root / "verify.jsonl"
    command = [sys.executable, "-m", "data_prep", "verify", str(root), "--jobs", "2"]
    kills, memory, kept = 0, [], b""
    while True:
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
        wanted = kept.count(b"\n") + rng.randint(50, 350) if kills < 6 else sys.maxsize
        memory = []
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= wanted:
                process.kill()
                break
            memory.append(resident(process.pid))
            time.sleep(rng.uniform(0, 0.02))
        if process.wait() != -signal.SIGKILL:
            break
        kills += 1
        content = journal.read_bytes()
        assert content.startswith(kept), "a recorded line was lost"
        kept = content[: content.rfind(b"\n") + 1]
    assert process.returncode == 3, "22 of 2000 are more than 1 %"
    assert kills == 6
    done = [json.loads(line)["path"] for line in journal.read_text().splitlines()]
    assert max(Counter(done).values()) == 1, "a file was done twice"
    assert set(done) == paths
    records = Records(journal)
    found = {path: record.kind for path, record in records.items() if not record.ok}
    assert found == {f"class 0/bad/{name}": kind for name, kind in kinds.items()}
    steady = sorted(size for size in memory if size)
    growth = steady[-1] - steady[len(steady) // 2]
    assert growth < 10e6, f"{growth} bytes after {kills} kills, {steady[-1]} at most"


def resident(pid: int) -> int:
    """Bytes of a process in memory; 0 when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError):
        return 0
