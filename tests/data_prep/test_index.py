"""`python -m data_prep`: what is found, how it is named and split, and what is refused."""

from __future__ import annotations

import errno
import os
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep import classes as classes_module
from data_prep import scan as scan_module
from data_prep.__main__ import main
from data_prep.classes import name_classes
from data_prep.splitting import split_positions
from tests.videos import write_numbered
from videogn.data.decode import open_video
from videogn.data.manifest import read_manifest


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_numbered(tmp_path_factory.mktemp("clip") / "clip.mp4", 2).read_bytes()


@pytest.fixture
def source(tmp_path: Path, clip: bytes) -> Path:
    """Ten videos in each of two class folders, and files that are none."""
    folder = tmp_path / "source"
    for name in ("walk", "run"):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            (folder / name / f"{name}{number}.mp4").write_bytes(clip)
    (folder / "run" / "without_suffix").write_bytes(clip)
    (folder / "run" / "broken.mp4").write_bytes(b"404 not found")
    (folder / "notes.txt").write_text("notes")
    return folder


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_folders_name_the_classes(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "root"
    assert run("index", source, "--out", out, "--label-from", "folder", "--val", "0.2") == 0
    train, val = read_manifest(out, "train"), read_manifest(out, "val")
    assert train.classes == ("run", "walk")
    assert (len(train), len(val)) == (17, 4)
    assert not set(train.paths) & set(val.paths)
    assert sorted(Counter(val.labels.tolist()).values()) == [2, 2]
    assert (out / "source.txt").read_text() == f"{source.resolve()}\n"
    for path, label in zip(train.paths, train.labels, strict=True):
        assert path.split("/")[0] == train.classes[label]
        with open_video(train.videos / path, root=train.videos) as video:
            assert video.num_frames == 2
    ignored = (out / "ignored.txt").read_text().splitlines()
    assert [line.split("\t")[0] for line in ignored] == ["notes.txt", "run/broken.mp4"]
    printed = capsys.readouterr().out
    assert "21 videos in 2 of 2 classes" in printed
    assert "train.csv: 17" in printed
    assert "2 files ignored, listed in" in printed


def test_the_same_seed_gives_the_same_split(source: Path, tmp_path: Path) -> None:
    texts = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        out = tmp_path / name
        assert run("index", source, "--out", out, "--label-from", "folder", "--seed", seed) == 0
        texts.append((out / "val.csv").read_text())
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize("inside", [".", "root"])
def test_the_data_root_may_lie_in_the_source(source: Path, inside: str) -> None:
    out = source / inside
    for _ in range(2):  # again, with its own files there
        assert run("index", source, "--out", out, "--label-from", "folder") == 0
        assert "train.csv" not in (out / "ignored.txt").read_text()
    assert read_manifest(out, "train").videos == source.resolve()


def test_file_names_as_labels_and_the_same_videos_twice(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    for name in ("please", "again"):
        (source / f"{name}.mkv").write_bytes(clip)
    arguments = ("index", source, "--out", out, "--label-from", "filename", "--val", 0)
    assert run(*arguments, "--val-same") == 0
    train, val = read_manifest(out, "train"), read_manifest(out, "val")
    assert train.paths == val.paths == ["again.mkv", "please.mkv"]
    assert train.classes == ("again", "please")
    assert not (out / "ignored.txt").exists()
    assert run(*arguments) == 3  # would leave the old val.csv beside a new train.csv
    (out / "val.csv").unlink()
    assert run(*arguments) == 0
    assert not (out / "val.csv").exists()
    assert "no val.csv" in capsys.readouterr().out


def test_labels_from_a_csv(source: Path, tmp_path: Path) -> None:
    table, out = tmp_path / "labels.csv", tmp_path / "root"
    videos = [f"{name}/{name}{n}.mp4" for name in ("walk", "run") for n in range(10)]
    rows = [f"{path},{path[0].upper()}" for path in (*videos, "run/without_suffix")]
    table.write_text("path,label\n" + "\n".join(rows))
    assert run("index", source, "--out", out, "--label-from", "csv", "--csv", table) == 0
    assert read_manifest(out, "train").classes == ("R", "W")
    assert run("index", source, "--out", tmp_path / "again", "--csv", table) == 0  # enough said
    assert read_manifest(tmp_path / "again", "train").classes == ("R", "W")


def test_labels_come_from_one_place(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--out", tmp_path / "root", "--label-from", "folder", "--csv", tmp_path / "a.csv")
    assert run("index", source, *options) == 3
    assert "--csv: labels are taken from the folder; give one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("walk/nothing.mp4,a", "labels.csv:2: 'walk/nothing.mp4' is no video under"),
        ("run/broken.mp4,a", "labels.csv:2: 'run/broken.mp4' is no video"),
        ("walk/walk0.mp4,", "labels.csv:2: 'walk/walk0.mp4' has no label"),
        ("walk/walk0.mp4,a\nwalk/walk0.mp4,b", "labels.csv:3: 'walk/walk0.mp4' is 'a' further up"),
        ("walk/walk0.mp4,a", "has no row for 'run/run0.mp4' and 19 other videos"),
    ],
)
def test_a_csv_must_fit_the_videos(
    source: Path, tmp_path: Path, rows: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "labels.csv"
    table.write_text("path,label\n" + rows)
    out = tmp_path / "root"
    assert run("index", source, "--out", out, "--label-from", "csv", "--csv", table) == 3
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_what_cannot_be_indexed_is_said_in_one_line(
    source: Path, tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ("--out", tmp_path / "root", "--label-from")
    assert run("index", tmp_path / "nowhere", *arguments, "folder") == 3
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("index", empty, *arguments, "folder") == 3
    assert run("index", source, *arguments, "csv") == 3
    (source / "loose.mp4").write_bytes(clip)
    assert run("index", source, *arguments, "folder") == 3
    errors = capsys.readouterr().err.splitlines()
    for error, part in zip(
        errors,
        ("no such folder", "holds no video", "add --csv FILE", "loose.mp4: lies in no class"),
        strict=True,
    ):
        assert error.startswith("error: ")
        assert part in error


@pytest.mark.parametrize("arguments", [[], ["index"], ["index", "x", "--val", "1"], ["nothing"]])
def test_usage_ends_with_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


def test_links_and_fifos_are_left_out(source: Path, tmp_path: Path, clip: bytes) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "o.mp4").write_bytes(clip)
    (source / "run" / "inside_link.mp4").symlink_to(source / "run" / "run0.mp4")
    (source / "run" / "outside_link.mp4").symlink_to(outside / "o.mp4")
    (source / "run" / "dangling.mp4").symlink_to(source / "nothing.mp4")
    (source / "linked_folder").symlink_to(outside)
    os.mkfifo(source / "run" / "fifo.mp4")
    out = tmp_path / "root"
    assert run("index", source, "--out", out, "--label-from", "folder", "--val-same") == 0
    paths = read_manifest(out, "train").paths
    assert len(paths) == 22
    assert "run/inside_link.mp4" in paths
    ignored = dict(line.split("\t") for line in (out / "ignored.txt").read_text().splitlines())
    assert ignored["run/outside_link.mp4"] == ignored["linked_folder"] == "a link out of the folder"
    assert "No such file" in ignored["run/dangling.mp4"]
    assert ignored["run/fifo.mp4"] == "no video by its content"


def test_a_folder_that_cannot_be_listed_is_named_and_passed_over(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (source / "closed").mkdir()
    scandir, closed = os.scandir, source / "closed"

    def deny(folder: Path) -> Any:  # root may list any folder, so no mode shows this
        if folder == closed.resolve():
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(scan_module.os, "scandir", deny)
    out = tmp_path / "root"
    assert run("index", source, "--out", out, "--label-from", "folder") == 0
    reason = "a folder that cannot be read: Permission denied"
    assert f"closed/\t{reason}\n" in (out / "ignored.txt").read_text()
    assert len(read_manifest(out, "train")) == 19
    assert f"closed/: {reason}" in capsys.readouterr().out
    closed = source
    assert run("index", source, "--out", out, "--label-from", "folder") == 3
    assert f"error: {source}: {reason}; check" in capsys.readouterr().err


def test_one_video_a_class_is_told_where_none_is_held_out(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    for name in ("walk", "run"):
        (source / name).mkdir(parents=True)
        (source / name / "a.mp4").write_bytes(clip)
    (source / "classes.txt").write_text("walk\nsit\nrun\n")
    assert run("index", source, "--out", tmp_path / "root", "--val", 0.2) == 0
    printed = capsys.readouterr().out
    assert (
        "  There is no val.csv: each class has one video, and training needs it; --val-same lists "
        "the videos of train.csv there again.\n"
    ) in printed
    assert "--val FRACTION" not in printed
    assert "  warning: 1 of 3 classes without a training video: 'sit'\n" in printed


def test_the_first_reason_is_told_where_there_is_no_video(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "a.txt").write_text("notes")
    with tarfile.open(folder / "cut.tar", "w") as tar:
        tar.add(folder / "a.txt", "x.mp4")
    (folder / "cut.tar").write_bytes((folder / "cut.tar").read_bytes()[:300])
    assert run("index", folder, "--out", tmp_path / "root") == 3
    error = capsys.readouterr().err
    assert "holds no video; of 2 files one, 'cut.tar': an archive that cannot be read: " in error


def test_a_list_of_classes_in_the_source_gives_the_order(source: Path, tmp_path: Path) -> None:
    (source / "classes.txt").write_text("walk\nsit\nrun\n")
    out = tmp_path / "root"
    assert run("index", source, "--out", out, "--label-from", "folder") == 0
    assert read_manifest(out, "train").classes == ("walk", "sit", "run")
    (source / "classes.txt").write_text("walk\n")
    assert run("index", source, "--out", out, "--label-from", "folder") == 3


def test_kinetics_400_keeps_its_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = (*(f"Doing (Thing) {n}" for n in range(399)), "abseiling")
    monkeypatch.setattr(classes_module, "kinetics400_classes", lambda: shipped)
    labels = [f"doing_thing_{n}" for n in range(300)] + ["Abseiling"]
    names, classes = name_classes(tmp_path, labels)
    assert classes == shipped
    assert names[3] == "Doing (Thing) 3"
    assert names[-1] == "abseiling"
    # Too few of them, or one that is not of Kinetics: a set of its own.
    assert name_classes(tmp_path, labels[:299])[1] == tuple(sorted(labels[:299]))
    assert "own" in name_classes(tmp_path, [*labels, "own"])[1]


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=12),
    fraction=st.floats(0, 0.99),
    seed=st.integers(0, 100),
)
def test_a_split_is_stratified_and_leaves_every_class_a_training_video(
    sizes: list[int], fraction: float, seed: int
) -> None:
    labels = [f"class {number:02d}" for number, size in enumerate(sizes) for _ in range(size)]
    train, val = split_positions(labels, fraction, seed)
    assert sorted(train + val) == list(range(len(labels)))
    assert {labels[at] for at in train} == set(labels)
    held = Counter(labels[at] for at in val)
    for number, size in enumerate(sizes):
        assert held[f"class {number:02d}"] <= size * fraction + 1.01
        if size > 1:
            assert held[f"class {number:02d}"] >= min(size - 1, size * fraction - 1.01)


def test_synth_writes_a_data_root_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "root"
    sizes = ("--train", 9, "--val", 3, "--frames", 4, "--size", 32)
    assert run("synth", "--out", out, *sizes) == 0
    assert "9 + 3 clips in 8 classes" in capsys.readouterr().out
    train = read_manifest(out, "train")
    with open_video(train.videos / train.paths[8], root=train.videos) as video:
        assert video.frames(range(4)).shape == (4, 32, 32, 3)
    assert run("synth", "--out", out, *sizes) == 3
    assert "add --force" in capsys.readouterr().err
    assert run("synth", "--out", out, *sizes, "--force") == 0


def test_folders_train_and_val_are_the_splits(
    tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "kinetics"
    for split, name in (("train_256", "walk"), ("train_256", "run"), ("val_256", "walk")):
        (source / split / name).mkdir(parents=True)
        (source / split / name / "video.mp4").write_bytes(clip)
    out = tmp_path / "root"
    assert run("index", source, "--out", out, "--label-from", "folder", "--split-folders") == 0
    assert read_manifest(out, "train").paths == [
        "train_256/run/video.mp4",
        "train_256/walk/video.mp4",
    ]
    assert read_manifest(out, "val").paths == ["val_256/walk/video.mp4"]
    (source / "other").mkdir()
    (source / "other" / "video.mp4").write_bytes(clip)
    assert run("index", source, "--out", out, "--label-from", "folder", "--split-folders") == 3
    assert "other/video.mp4: lies in no folder train or val" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("videos/clip.mp4", "is one video; give the folder of all videos, such as videos"),
        ("list.csv", "is a file, not a folder; give the folder of the videos, and --list list.csv"),
        ("shard.tar", "is an archive; give the folder that it lies in, ."),
        ("empty", "is a file, not a folder; give the folder that holds the videos"),
        ("vidoes", "no such folder; did you mean videos?"),
        ("gone", "no such folder; give the one that holds the videos"),
    ],
)
def test_a_source_that_is_no_folder_is_told_what_to_give(
    tmp_path: Path,
    name: str,
    words: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("videos").mkdir()
    Path("videos/clip.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    Path("list.csv").write_text("no list at all\n")
    for empty in ("empty", "shard.tar"):
        Path(empty).touch()
    assert main(["index", name, "--out", "root"]) == 3
    assert capsys.readouterr().err == f"error: {name}: {words}\n"
    assert not Path("root").exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("idnex videos --out x", "there is no command 'idnex'; did you mean index?"),
        ("index videos --otu x", "--otu: did you mean --out?"),
        ("index videos --out x --layout treee", "did you mean tree?"),
        ("index videos --out x --val some", "--val: 'some' is no number, such as 0.1"),
        ("index videos --out x --per-class few", "--per-class: 'few' is no whole number"),
        ("index videos --out x --seed -1", "--seed: -1 is less than 0"),
        ("index videos --out=", "--out: '' names nothing"),
        ("reencode root --out x --crf 99", "--crf: 99 is not from 1 to 51"),
    ],
)
def test_a_wrong_word_is_answered_with_what_was_wanted(
    line: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    assert caught.value.code == 2
    assert words in capsys.readouterr().err
