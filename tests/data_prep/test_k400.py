"""`python -m data_prep k400`: from archives as they are downloaded to a data root."""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from data_prep import archives as archives_module
from data_prep import k400_unpack
from data_prep.__main__ import main
from data_prep.archives import unpack_archive
from data_prep.k400_source import find_copy, gaps, match, read_annotations, role_of
from tests.data_prep.kinetics_copy import (
    digests,
    file_name,
    tar_of,
    truncate,
    video_id,
    videos,
    write_annotations,
    write_copy,
)
from tests.videos import write_numbered
from videogn.data.decode import open_video
from videogn.data.manifest import read_manifest
from videogn.data.tar import list_members
from videogn.errors import DataError

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_numbered(tmp_path_factory.mktemp("clip") / "clip.mp4", 3).read_bytes()


@pytest.fixture
def source(tmp_path: Path, clip: bytes) -> Path:
    write_copy(tmp_path / "source", clip)
    return tmp_path / "source"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def k400(source: Path, out: Path, *arguments: object) -> int:
    return run("k400", source, "--out", out, "--jobs", 1, *arguments)


def table(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.open(newline="")))


def test_the_official_copy_becomes_a_root_whose_videos_open(
    source: Path, tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tmp_path / "root", digests(source)
    assert k400(source, out) == 0
    assert digests(source) == before
    train, val = read_manifest(out, "train"), read_manifest(out, "val")
    assert (len(train), len(val), len(train.classes)) == (12, 4, 400)
    assert set(train.labels.tolist()) == {308}  # sorted without parentheses it would be 309
    assert set(val.labels.tolist()) == {0}
    assert train.paths[0] == "replacement/replacement_for_corrupted_k400/" + (
        f"replacement_for_corrupted_k400/{video_id('train', 5)}_000011_000021.mp4"
    )
    assert train.paths[1] == f"train/part_0/{file_name('train', 0)}"
    assert val.paths == [f"val/part_0/{file_name('val', number)}" for number in range(4)]
    first = table(out / "train.csv")[1]
    expected = ("308", video_id("train", 0), "10", "20")
    assert tuple(first[name] for name in ("label_id", "youtube_id", "start", "end")) == expected
    for path in (*train.paths, *val.paths):
        with open_video(train.videos / path, root=train.videos) as video:
            assert video.num_frames == 3
    assert not (out / "test.csv").exists()  # whose labels would be needed
    test = table(out / "unlabelled.csv")
    assert list(test[0]) == ["path", "split", "youtube_id", "start", "end"]
    assert [row["path"] for row in test] == [
        f"test/part_0/{file_name('test', number)}" for number in range(4)
    ]
    missing = [(row["split"], row["youtube_id"]) for row in table(out / "missing.csv")]
    assert missing == [("train", video_id("train", 12)), ("val", video_id("val", 4))]
    ignored = dict(line.split("\t") for line in (out / "ignored.txt").read_text().splitlines())
    assert ignored == {
        "val/part_0/unknown_vid_000000_000010.mp4": "has no row in the annotations",
        f"train/part_1/{file_name('train', 5)}": f"{train.paths[0]} has the same id",
    }
    summary = json.loads((out / "summary.json").read_text())["k400"]
    assert summary["archives"]["unpacked"] == 6
    assert summary["archives"]["files"] == 22
    assert summary["missing"] == {"train": 1, "val": 1, "test": 0}
    assert "abseiling" in summary["classes_without_videos"]["train"]
    printed = capsys.readouterr().out
    assert "train: 3 archives" in printed
    assert "rows: train 13, val 5, test 4" in printed
    assert "to unpack: 6 of 6 archives" in printed
    assert "GB free" in printed
    assert f"python -m data_prep verify {out}" in printed


def test_a_root_can_be_moved(source: Path, tmp_path: Path) -> None:
    assert k400(source, tmp_path / "root") == 0
    moved = (tmp_path / "root").rename(tmp_path / "moved")
    manifest = read_manifest(moved, "val")
    assert (manifest.videos / manifest.paths[0]).is_file()


def test_again_nothing_is_unpacked_but_what_changed_or_is_gone(
    source: Path, tmp_path: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "root"
    assert k400(source, out) == 0
    before = digests(out)
    times = {path: path.stat().st_mtime_ns for path in (out / "videos").rglob("*.mp4")}
    assert k400(source, out) == 0
    assert "to unpack: 0 of 6" in capsys.readouterr().out
    shutil.rmtree(out / "videos/train/part_2")
    os.utime(source / "val/part_0.tar.gz", ns=(1, 1))
    assert k400(source, out) == 0
    assert "to unpack: 2 of 6" in capsys.readouterr().out
    assert digests(out) == before
    rewritten = {p for p, then in times.items() if p.stat().st_mtime_ns != then}
    assert {path.parent.relative_to(out / "videos").as_posix() for path in rewritten} == {
        "train/part_2",
        "val/part_0",
    }


def test_an_archive_that_has_become_bad_is_tried_until_it_is_good_again(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, out = source / "train/part_2.tar.gz", tmp_path / "root"
    assert k400(source, out) == 0
    truncate(archive)
    for _ in range(2):
        assert k400(source, out) == 3
        assert "to unpack: 1 of 6" in capsys.readouterr().out.split("to unpack: 6 of 6")[-1]
        assert len(read_manifest(out, "train")) == 12  # what was unpacked before is still whole


def test_a_dry_run_writes_nothing(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert k400(source, tmp_path / "root", "--dry-run") == 0
    assert "to unpack: 6 of 6 archives" in capsys.readouterr().out
    assert not (tmp_path / "root").exists()


def test_a_damaged_archive_is_named_and_the_rest_goes_on(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    archive, out = source / "train/part_2.tar.gz", tmp_path / "root"
    good = archive.read_bytes()
    truncate(archive)
    assert k400(source, out) == 3
    printed = capsys.readouterr().out
    assert f"failed: {archive}: cannot be unpacked" in printed
    assert not (out / "videos/train/part_2").exists()
    assert len(read_manifest(out, "train")) == 8
    assert len(table(out / "missing.csv")) == 6
    failed = json.loads((out / "summary.json").read_text())["k400"]["archives"]["failed"]
    assert list(failed) == ["train/part_2.tar.gz"]
    assert k400(source, out) == 3  # tried again, since nothing of it is there
    archive.write_bytes(good)
    assert k400(source, out) == 0
    assert "to unpack: 1 of 6" in capsys.readouterr().out
    assert len(read_manifest(out, "train")) == 12
    leftovers = [path for path in out.rglob("*.part*") if path.name.startswith(".")]
    assert leftovers == []


def test_tars_hold_the_same_videos_in_one_file_an_archive(source: Path, tmp_path: Path) -> None:
    loose, packed = tmp_path / "loose", tmp_path / "packed"
    assert k400(source, loose) == 0
    assert k400(source, packed, "--tars") == 0
    assert sorted(path.name for path in (packed / "videos/train").iterdir()) == [
        f"part_{number}.tar" for number in range(3)
    ]
    for split in ("train", "val"):
        files, members = read_manifest(loose, split), read_manifest(packed, split)
        assert [path.replace(".tar::", "/") for path in members.paths] == list(files.paths)
        for path in members.paths:
            assert ".tar::" in path
            with open_video(members.videos / path, root=members.videos) as video:
                assert video.num_frames == 3
    again = tmp_path / "again"
    assert k400(source, again, "--tars") == 0
    assert digests(again) == digests(packed)


def test_shards_together_do_what_one_run_does(source: Path, tmp_path: Path) -> None:
    whole, shared = tmp_path / "whole", tmp_path / "shared"
    assert k400(source, whole) == 0
    for number in (2, 1, 3):
        assert k400(source, shared, "--shard", f"{number}/3") == 0
        assert not (shared / "train.csv").exists()
    assert sorted(path.name for path in shared.glob("*.jsonl")) == [
        f"unpack.{number}-of-3.jsonl" for number in (1, 2, 3)
    ]
    assert k400(source, shared) == 0
    assert digests(shared) == digests(whole)


def test_a_limit_takes_the_first_of_each_split(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "root"
    assert k400(source, out, "--limit", 1) == 0
    assert len(read_manifest(out, "train")) == 5  # one of them from the replacements
    assert len(read_manifest(out, "val")) == 4


def test_parts_are_counted_and_not_sorted_as_words(tmp_path: Path) -> None:
    for number in (10, 9, 100):
        (tmp_path / f"train_part_{number}.tar.gz").write_bytes(b"")
    paths = [archive.path for archive in find_copy(tmp_path).archives]
    assert paths == [f"train_part_{number}.tar.gz" for number in (9, 10, 100)]


def test_archives_that_were_forgotten_are_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gaps(find_copy(source).archives) == []
    (source / "train/part_2.tar.gz").rename(source / "train/part_4.tar.gz")
    assert gaps(find_copy(source).archives) == ["train/part_2.tar.gz", "train/part_3.tar.gz"]
    assert k400(source, tmp_path / "root", "--dry-run") == 0
    printed = capsys.readouterr().out
    assert "not there, by the numbers: train/part_2.tar.gz, train/part_3.tar.gz\n" in printed


def test_an_archive_without_videos_is_named(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "kinetics400.tar.gz").write_bytes(gzip.compress(tar_of({"train.csv": b"x"})))
    assert k400(source, tmp_path / "root") == 0
    printed = capsys.readouterr().out
    assert "no videos in 1 archives (summary.json): kinetics400.tar.gz\n" in printed
    assert "1 members (summary.json)" in printed


@pytest.mark.parametrize(
    ("path", "role"),
    [
        ("train/part_7.tar.gz", "train"),
        ("k400/val_256", "val"),
        ("validation", "val"),
        ("Kinetics_TRAIN_part_3.tar", "train"),
        ("val/training dog", "val"),
        ("val/training_dog", "val"),
        ("train_256/testifying", "train"),
        ("replacement/replacement_for_corrupted_k400.tgz", "replacement"),
        ("train/replacement", "replacement"),
        ("contest/part_7.tar.gz", "other"),
        ("abseiling", "other"),
    ],
)
def test_the_path_tells_the_split(path: str, role: str) -> None:
    assert role_of(path) == role


def test_a_flat_folder_of_archives_will_do(source: Path, tmp_path: Path) -> None:
    flat, out = tmp_path / "flat", tmp_path / "root"
    flat.mkdir()
    for split, part in (("train", 0), ("val", 0)):
        shutil.copy(source / split / f"part_{part}.tar.gz", flat / f"k400_{split}_part_{part}.tgz")
    for split in ("train", "val"):
        shutil.copy(source / "annotations" / f"{split}.csv", flat / f"kinetics_{split}.csv")
    assert k400(flat, out) == 0
    assert read_manifest(out, "val").paths[0] == f"val/k400_val_part_0/{file_name('val', 0)}"


def test_archives_of_one_name_do_not_meet(source: Path, tmp_path: Path) -> None:
    (source / "more/train").mkdir(parents=True)
    (source / "train/part_2.tar.gz").rename(source / "more/train/part_0.tar.gz")
    assert k400(source, tmp_path / "root") == 0
    assert len(read_manifest(tmp_path / "root", "train")) == 12


@pytest.mark.parametrize("tree", [True, False])
def test_unpacked_copies_are_listed_where_they_are(
    tmp_path: Path, clip: bytes, tree: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "source", tmp_path / "root"
    for split in ("train", "val"):
        for number in range(3):
            folder = source / f"{split}_256" / ("training dog" if tree else "")
            folder.mkdir(parents=True, exist_ok=True)
            name = f"{video_id(split, number)}.mkv" if tree else file_name(split, number)
            (folder / name).write_bytes(clip)
    write_annotations(source / "ann", {"train": 3, "val": 4})
    assert k400(source, out) == 0
    assert not (out / "videos").exists()
    manifest = read_manifest(out, "val")
    assert manifest.videos == source.resolve()
    assert len(manifest) == 3
    assert len(table(out / "missing.csv")) == 1
    assert "6 loose videos" in capsys.readouterr().out


def test_a_copy_may_be_unpacked_in_part(source: Path, tmp_path: Path, clip: bytes) -> None:
    (source / "val/part_0.tar.gz").unlink()
    for name, data in videos("val", 0, clip).items():
        (source / "val" / name).write_bytes(data)
    out = tmp_path / "root"
    assert k400(source, out) == 0
    val = read_manifest(out, "val")
    assert val.videos == tmp_path.resolve()
    assert val.paths[0] == f"source/val/{file_name('val', 0)}"
    assert read_manifest(out, "train").paths[-1].startswith("root/videos/train/part_2/")


def test_the_root_may_lie_in_the_source(source: Path) -> None:
    for _ in range(2):
        assert k400(source, source / "root") == 0
        assert len(read_manifest(source / "root", "train")) == 12


def test_annotations_of_five_columns_and_from_another_folder(source: Path, tmp_path: Path) -> None:
    folder = tmp_path / "kinetics400"
    (source / "annotations").rename(folder)
    for file in folder.iterdir():
        rows = [line.rsplit(",", 1)[0] for line in file.read_text().splitlines()]
        file.write_text("\r\n".join(rows).replace(",val", ",validate"))
    (folder / "val.csv").rename(folder / "validate.csv")
    out = tmp_path / "root"
    assert k400(source, out) == 3
    assert k400(source, out, "--annotations", folder) == 0
    assert (len(read_manifest(out, "train")), len(read_manifest(out, "val"))) == (12, 4)
    assert k400(source, tmp_path / "one", "--annotations", folder / "train.csv") == 0
    assert len(read_manifest(tmp_path / "one", "train")) == 12
    assert not (tmp_path / "one/val.csv").exists()


def _annotations(tmp_path: Path, **files: str) -> list[Path]:
    header = "label,youtube_id,time_start,time_end,split\n"
    paths = []
    for name, rows in files.items():
        paths.append(tmp_path / f"{name}.csv")
        paths[-1].write_text(header + rows)
    return paths


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train": "zumba,abcdefghijk,1,2,train", "val": "zumba,abcdefghijk,1,2,val"},
            r"val.csv:2: 'abcdefghijk' is in val here and in train at .*train.csv:2",
        ),
        (
            {"train": "zumba,abcdefghijk,1,2,\nyoga,abcdefghijk,5,6,"},
            r"train.csv:3: 'abcdefghijk' is 'yoga' here and 'zumba' at .*train.csv:2",
        ),
        ({"train": "juggling swords,abcdefghijk,1,2,"}, "'juggling swords' is no class"),
        ({"train": ",abcdefghijk,1,2,"}, "train.csv:2: '' is no class"),
        ({"list": "zumba,abcdefghijk,1,2,all"}, "split 'all' is none of train, val, test"),
    ],
)
def test_annotations_that_contradict_are_refused(
    tmp_path: Path, files: dict[str, str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        read_annotations(_annotations(tmp_path, **files))


def test_annotations_are_read_in_every_spelling_and_train_comes_before_test(
    tmp_path: Path,
) -> None:
    files = _annotations(
        tmp_path,
        test=",abcdefghijk,1,2,test\n,test_only__,1,2,test",
        train='"Skiing_not_slalom or crosscountry",abcdefghijk,1,2,train\nzumba,z,1,2,train\n'
        "Zumba,z,1,2,train",
    )
    for ordered in (files, files[::-1]):
        clips = read_annotations(ordered)
        assert {clip.video: (clip.split, clip.label) for clip in clips.values()} == {
            "abcdefghijk": ("train", "skiing (not slalom or crosscountry)"),
            "test_only__": ("test", ""),
            "z": ("train", "zumba"),
        }


def test_the_best_of_several_files_is_taken(tmp_path: Path) -> None:
    (annotations,) = _annotations(tmp_path, train="zumba,abcdefghijk,7,17,")
    clips = read_annotations([annotations])
    candidates = [
        "replacement/abcdefghijk_000001_000011.mp4",
        "train/b/abcdefghijk_000007_000017.mp4",
        "train/a/abcdefghijk_000001_000011.mp4",
    ]
    for first in range(3):
        found = match(reversed([*candidates[first:], "val/abcdefghijk.mp4"]), clips, [])
        assert [row["path"] for row in found.rows["train"]] == [candidates[first]]
        assert set(found.ignored) == {*candidates[first + 1 :], "val/abcdefghijk.mp4"}
        assert "the annotations have it in train" in found.ignored["val/abcdefghijk.mp4"]
        assert found.missing == []
    # The name of a file is an id: it does not tell the split.
    tricky = "train/part_1.tar::-val_efghij_000007_000017.mp4"
    (annotations,) = _annotations(tmp_path, train="zumba,-val_efghij,7,17,")
    found = match([tricky], read_annotations([annotations]), [])
    assert [row["path"] for row in found.rows["train"]] == [tricky]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{tmp}/nowhere", "--out", "{tmp}/root"), "nowhere: no such folder"),
        (("{tmp}/empty", "--out", "{tmp}/root"), "holds neither archives nor videos"),
        (("{tmp}/source", "--out", "{tmp}/source"), "is also the folder to write to"),
        (("{tmp}/source", "--out", "{tmp}/root", "--annotations", "{tmp}/empty"), "no annotations"),
    ],
)
def test_what_cannot_be_prepared_is_said_in_one_line(
    source: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty").mkdir()
    assert run("k400", *(text.format(tmp=tmp_path) for text in arguments)) == 3
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "root").exists()


def test_too_small_a_disk_is_found_before_unpacking(
    source: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(k400_unpack, "free_bytes", lambda folder: 1_100_000_000 - 30_000_000)
    assert k400(source, tmp_path / "root") == 3
    assert "1.1 GB are free; choose --videos on another disk" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_a_full_disk_ends_the_run_with_what_to_do(tmp_path: Path, clip: bytes) -> None:
    full = OSError(28, "No space left on device")

    def refuse(*arguments: object) -> None:
        raise full

    archive = tmp_path / "a.tar"
    archive.write_bytes(tar_of({"a.mp4": clip}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(archives_module, "_copy", refuse)
        with pytest.raises(k400_unpack.BadItemError) as caught:
            k400_unpack.unpack_one(
                "a.tar",
                source=tmp_path,
                videos=tmp_path / "v",
                targets={"a.tar": "a"},
                as_tars=False,
            )
    assert caught.value.kind == "disk full"
    assert "No space left" in caught.value.reason
    assert list((tmp_path / "v").iterdir()) == []


def header(name: str, kind: bytes = tarfile.REGTYPE, *, link: str = "", size: int = 0) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int) -> bytes:
    """A sparse file of `size` bytes of which the archive holds none."""
    block = bytearray(header(name, tarfile.GNUTYPE_SPARSE))
    block[483:495] = f"{size:012o}".encode()
    total = 256 + sum(block[:148]) + sum(block[156:512])
    block[148:156] = f"{total:06o}\0 ".encode()
    return bytes(block)


HOSTILE = {
    "../x.mp4": header("../x.mp4"),
    "/tmp/x.mp4": header("/tmp/x.mp4"),
    "a/../../x.mp4": header("a/../../x.mp4"),
    "link.mp4": header("link.mp4", tarfile.SYMTYPE, link="/etc/passwd"),
    "link.mp4/x.mp4 ": header("hard.mp4", tarfile.LNKTYPE, link="../../secret"),
    "dev.mp4": header("dev.mp4", tarfile.CHRTYPE),
    "fifo.mp4": header("fifo.mp4", tarfile.FIFOTYPE),
    "sparse.mp4": sparse("sparse.mp4", 10 << 30),
    "new\nline.mp4": header("new\nline.mp4"),
    "back\\slash.mp4": header("back\\slash.mp4"),
    "long": header("l" * 240 + ".mp4"),
    "deep": header("d/" * 40 + "x.mp4"),
    "script.sh": header("script.sh"),
    "._apple.mp4": header("._apple.mp4"),
    "empty name": header(""),
}


@pytest.mark.parametrize("as_tar", [False, True])
def test_hostile_members_are_left_out_and_named(tmp_path: Path, as_tar: bool, clip: bytes) -> None:
    folder = tmp_path / "a/b/c"
    folder.mkdir(parents=True)
    info = tarfile.TarInfo("good.mp4")
    info.size = len(clip)
    good = info.tobuf() + clip + bytes(-len(clip) % 512)
    archive = folder / "x.tar.gz"
    # A link to a folder, then a file through it: the classic way out.
    through = header("out", tarfile.SYMTYPE, link="../..") + header("out/through.mp4")
    archive.write_bytes(gzip.compress(b"".join([*HOSTILE.values(), through, good, bytes(1024)])))
    target = folder / ("x.tar" if as_tar else "x")
    contents = unpack_archive(archive, target, as_tar=as_tar)
    assert contents.files == 2
    assert contents.num_left_out == len(HOSTILE) + 1
    assert contents.left_out["../x.mp4"] == "its path leads out of the archive"
    assert contents.left_out["/tmp/x.mp4"] == "its path leads out of the archive"
    for name in ("link.mp4", "hard.mp4", "dev.mp4", "fifo.mp4", "sparse.mp4"):
        assert contents.left_out[name] == "not a regular file"
    if as_tar:
        assert [name for name, _ in list_members(str(target))] == ["out/through.mp4", "good.mp4"]
    else:
        files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
        assert files == {"a/b/c/x.tar.gz", "a/b/c/x/good.mp4", "a/b/c/x/out/through.mp4"}
        assert (target / "good.mp4").read_bytes() == clip
        assert not any(path.is_symlink() for path in tmp_path.rglob("*"))


@pytest.mark.parametrize("as_tar", [False, True])
def test_an_archive_that_would_fill_the_disk_is_refused(
    tmp_path: Path, as_tar: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives_module, "_MAX_SLACK", 1 << 20)
    archive = tmp_path / "bomb.tar.gz"
    archive.write_bytes(gzip.compress(tar_of({f"{n}.mp4": bytes(1 << 19) for n in range(8)})))
    with pytest.raises(DataError, match=r"bomb.tar.gz: cannot be unpacked \(it would unpack to"):
        unpack_archive(archive, tmp_path / "out", as_tar=as_tar)
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda good: good[:-6] + bytes([good[-6] ^ 1]) + good[-5:], "CRC check failed"),
        (lambda good: good + gzip.compress(tar_of({"y.mp4": b"y"})), "goes on after the end"),
        (lambda good: b"BZh9" + good, "packed with something else than gzip"),
        (lambda good: b"<html>404</html>" * 100, "invalid header"),
        (lambda good: b"", "empty file"),
    ],
)
def test_what_is_no_whole_archive_is_refused_with_the_reason(
    tmp_path: Path, damage: Callable[[bytes], bytes], reason: str
) -> None:
    archive = tmp_path / "x.tar.gz"
    archive.write_bytes(damage(gzip.compress(tar_of({"x.mp4": b"x"}))))
    with pytest.raises(DataError, match=rf"x.tar.gz: cannot be unpacked \(.*{reason}"):
        unpack_archive(archive, tmp_path / "x")
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("as_tar", [False, True])
def test_a_cut_anywhere_leaves_nothing(tmp_path: Path, as_tar: bool) -> None:
    noise = random.Random(0)
    content = tar_of({f"{number}.mp4": noise.randbytes(700) for number in range(3)})
    for packed in (content[:5120], gzip.compress(content)):
        for cut in range(0, len(packed), 97):
            (tmp_path / "x.tar.gz").write_bytes(packed[:cut])
            with pytest.raises(DataError, match="cannot be unpacked"):
                unpack_archive(tmp_path / "x.tar.gz", tmp_path / "x", as_tar=as_tar)
            assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]


def test_of_two_members_of_one_name_the_last_counts(tmp_path: Path) -> None:
    blocks = []
    for data in (b"first", b"2nd"):
        info = tarfile.TarInfo("a.mp4")
        info.size = len(data)
        blocks.append(info.tobuf() + data.ljust(512, b"\0"))
    (tmp_path / "x.tar").write_bytes(b"".join(blocks) + bytes(1024))
    unpack_archive(tmp_path / "x.tar", tmp_path / "x")
    assert (tmp_path / "x/a.mp4").read_bytes() == b"2nd"


def start(*arguments: object) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    return subprocess.Popen(
        command, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def _killed_while_it_writes(out: Path, *arguments: object) -> bool:
    """Starts the command and kills it when a file that is being written is seen."""
    process = start(*arguments)
    while process.poll() is None:
        if any(path.name.endswith(".part") for path in out.glob("videos/*/.*")):
            process.send_signal(signal.SIGKILL)
            process.wait()
            return True
        time.sleep(0.001)
    return False


def test_killed_in_the_middle_it_goes_on_to_the_same_result(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "root"
    noise = random.Random(0).randbytes(20_000_000)
    for split in ("train", "val"):
        (source / split).mkdir(parents=True)
        for part in range(3):
            files = videos(split, part, noise[: 4_000_000 + part])
            (source / split / f"part_{part}.tar.gz").write_bytes(gzip.compress(tar_of(files), 0))
    write_annotations(source / "annotations", {"train": 12, "val": 12})
    before = digests(source)
    arguments = ("k400", source, "--out", out, "--jobs", 2)
    kills = sum(_killed_while_it_writes(out, *arguments) for _ in range(2))
    assert kills == 2
    assert not (out / "train.csv").exists()
    assert run(*arguments) == 0
    found = digests(out)
    shutil.rmtree(out)
    assert run(*arguments) == 0
    assert digests(out) == found
    assert digests(source) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root", "source"]
    assert not any(".part" in name for name in found)
