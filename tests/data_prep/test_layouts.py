"""Every layout is recognized by itself, from a real tree of real videos, and read as meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_prep import scan as scan_module
from data_prep.layouts import split_depth
from tests.data_prep.trees import (
    SKIING,
    clip,
    index,
    listed,
    put,
    put_tar,
    refused,
    run,
    source,
)
from videogn.data.decode import open_video
from videogn.data.kinetics import kinetics400_classes
from videogn.data.tables import read_table

__all__ = ["clip", "source"]  # fixtures

VIDEOS = ("walk/a.mp4", "run/b c.mp4", "run/d.mp4")

# --- folders -------------------------------------------------------------------------------------


def test_a_class_tree(source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    put(source, [f"{name}/{n}.mp4" for name in ("run", "walk") for n in range(5)], clip)
    found = index(source, "--val", "0.2")
    assert {name: len(found[name]) for name in found} == {"train": 8, "val": 2}
    assert found["train"].classes == ("run", "walk")
    assert "layout: tree (videos in class folders)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("train", "val"),
    [("train", "val"), ("train_256", "val_256"), ("k400/Train", "k400/validation")],
)
def test_a_class_tree_in_split_folders(
    source: Path, clip: bytes, train: str, val: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, [f"{train}/run/a.mp4", f"{train}/walk/b.mp4", f"{val}/run/c.mp4"], clip)
    found = index(source)
    assert listed(found["train"]) == {f"{train}/run/a.mp4": "run", f"{train}/walk/b.mp4": "walk"}
    assert listed(found["val"]) == {f"{val}/run/c.mp4": "run"}
    assert f"videos in class folders in {Path(train).name}" in capsys.readouterr().out
    (source.parent / "root" / "val.csv").unlink()
    assert len(index(source, "--val", 0)["train"]) == 3  # the user's word counts for more


def test_a_test_folder_is_for_validation_where_there_is_no_other(source: Path, clip: bytes) -> None:
    put(source, ["train/run/a.mp4", "test/run/b.mp4"], clip)
    assert listed(index(source)["val"]) == {"test/run/b.mp4": "run"}
    put(source, ["val/run/c.mp4", "test/d.mp4"], clip)
    found = index(source)
    assert [list(found[name].paths) for name in ("train", "val", "test")] == [
        ["train/run/a.mp4"],
        ["val/run/c.mp4"],
        ["test/run/b.mp4"],
    ]
    rows = read_table(source.parent / "root" / "unlabelled.csv", ("path",))
    assert [row.fields["path"] for row in rows] == ["test/d.mp4"]


def test_classes_that_begin_like_splits_are_classes(source: Path, clip: bytes) -> None:
    put(source, ["training dog/a.mp4", "testing tea/b.mp4", "training dog/c.mp4"], clip)
    assert split_depth(["training dog/a.mp4", "testing tea/b.mp4"]) is None
    assert index(source, "--val", 0)["train"].classes == ("testing tea", "training dog")


def test_kinetics_in_any_spelling_keeps_its_ids(source: Path, clip: bytes) -> None:
    names = [
        name.replace(" ", "_").replace("(", "").replace(")", "") for name in kinetics400_classes()
    ]
    assert sorted(names) != names  # 308 and 309: sorting folders would swap them
    put(source, [f"train/{name}/{n:011}_000001_000011.mp4" for n, name in enumerate(names)], clip)
    put(source, [f"val/riding a bike/{'v' * 11}.mp4"], clip)
    found = index(source, "--fast")
    assert found["train"].classes == kinetics400_classes()
    by_path = dict(zip(found["train"].paths, found["train"].labels.tolist(), strict=True))
    for label in (0, 308, 309, 399):
        assert by_path[f"train/{names[label]}/{label:011}_000001_000011.mp4"] == label
    columns = found["train"].columns
    row = found["train"].paths.index(f"train/{names[308]}/{308:011}_000001_000011.mp4")
    assert [columns[name][row] for name in ("label_id", "youtube_id", "start", "end")] == [
        "308",
        f"{308:011}",
        "1",
        "11",
    ]
    assert found["val"].columns["start"] == [""]


def test_two_spellings_of_a_class_of_kinetics_are_one(source: Path, clip: bytes) -> None:
    put(source, ["train/riding_a_bike/a.mp4", "train/yoga/b.mp4", "val/riding a bike/c.mp4"], clip)
    found = index(source)
    assert found["train"].classes == ("riding a bike", "yoga")
    assert found["val"].labels.tolist() == [0]


def test_loose_videos_without_a_list_are_refused(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, ["run/a.mp4", "loose.mp4"], clip)
    error = refused(source, capsys)
    assert "loose.mp4: lies in no class folder, and no list says its class" in error
    assert "--list or --annotations" in error


# --- Kinetics and archives -----------------------------------------------------------------------

HEADER = "label,youtube_id,time_start,time_end,split,is_cc\n"


@pytest.mark.parametrize("columns", [6, 5])
def test_kinetics_with_annotations(
    source: Path, clip: bytes, columns: int, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = {name: f"{name:-<11}" for name in ("a", "b", "c", "d", "gone", "test")}
    put(
        source,
        [
            f"train/{ids['a']}_000001_000011.mp4",
            f"train/{ids['b']}_000002_000012.mp4",
            f"train/{'extra':-<11}_000001_000011.mp4",
            f"val/{ids['c']}_000003_000013.mkv",
            f"test/{ids['test']}_000003_000013.mp4",
            f"replacement/{ids['b']}_000004_000014.mp4",
        ],
        clip,
    )
    rows = {
        "train": [
            f'"{SKIING}",{ids["a"]},1,11,train,0',
            f"abseiling,{ids['b']},2,12,train,0",
            f"abseiling,{ids['gone']},5,15,train,0",
        ],
        "val": [f"abseiling,{ids['c']},3,13,val,0"],
    }
    folder = source / "annotations"
    folder.mkdir()
    for split, lines in rows.items():
        header = ",".join(HEADER.strip().split(",")[:columns])
        text = "\n".join(
            line.rsplit(",", 6 - columns)[0] if columns < 6 else line for line in lines
        )
        (folder / f"{split}.csv").write_text(f"{header}\n{text}\n")
    (folder / "test.csv").write_text(
        f"youtube_id,time_start,time_end,split\n{ids['test']},3,13,test\n"
    )
    found = index(source, "--classes", "kinetics400")
    assert listed(found["train"]) == {
        f"train/{ids['a']}_000001_000011.mp4": SKIING,
        f"replacement/{ids['b']}_000004_000014.mp4": "abseiling",
    }
    assert found["train"].columns["label_id"] == ["0", "308"]
    assert found["train"].columns["youtube_id"] == [ids["b"], ids["a"]]
    assert listed(found["val"]) == {f"val/{ids['c']}_000003_000013.mkv": "abseiling"}
    root = source.parent / "root"
    missing = read_table(root / "missing.csv", ("path", "label", "split", "place"))
    assert [row.fields["path"] for row in missing] == [ids["gone"]]
    assert missing[0].fields["place"].endswith("train.csv:4")
    ignored = dict(line.split("\t") for line in (root / "ignored.txt").read_text().splitlines())
    assert ignored == {
        f"train/{'extra':-<11}_000001_000011.mp4": "has no row in the annotations",
        f"train/{ids['b']}_000002_000012.mp4": (
            f"replacement/{ids['b']}_000004_000014.mp4 has the same id"
        ),
    }
    assert "unlabelled.csv" in capsys.readouterr().out


def test_annotations_of_another_kinetics(source: Path, clip: bytes) -> None:
    put(source, [f"{letter * 11}_000001_000011.mp4" for letter in "ab"], clip)
    table = source.parent / "k700_train.csv"
    table.write_text(
        f"label,youtube_id,time_start,time_end,split\nherding alpaca,{'a' * 11},1,11,train\n"
        f"abseiling,{'b' * 11},1,11,validate\n"
    )
    found = index(source, "--annotations", table)
    assert found["train"].classes == ("abseiling", "herding alpaca")
    assert found["val"].labels.tolist() == [0]


def test_plain_tars_are_read_where_they_lie(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put_tar(source / "train" / "part_0.tar", {"run/a b.mp4": clip, "walk/b.mp4": clip})
    put_tar(source / "val" / "part_0.tar", {"run/c.mp4": clip, "run/x.mp4": b"404 not found"})
    found = index(source)
    assert listed(found["train"]) == {
        "train/part_0.tar::run/a b.mp4": "run",
        "train/part_0.tar::walk/b.mp4": "walk",
    }
    assert list(found["val"].paths) == ["val/part_0.tar::run/c.mp4"]
    path = found["train"].videos / found["train"].paths[0]
    with open_video(path, root=found["train"].videos) as video:
        assert video.num_frames == 2
    ignored = (source.parent / "root" / "ignored.txt").read_text()
    assert ignored == "val/part_0.tar::run/x.mp4\tno video by its content\n"


def test_tars_with_annotations(source: Path, clip: bytes) -> None:
    ids = ("-" * 11, "b" * 11)
    put_tar(source / "train" / "part_0.tar", {f"{ids[0]}_000001_000011.mp4": clip})
    put_tar(source / "val" / "part_0.tar", {f"{ids[1]}_000001_000011.mp4": clip})
    (source / "all.csv").write_text(
        f"{HEADER}abseiling,{ids[0]},1,11,train,0\nyoga,{ids[1]},1,11,val,0\n"
    )
    found = index(source)
    assert listed(found["train"]) == {f"train/part_0.tar::{ids[0]}_000001_000011.mp4": "abseiling"}


def test_webdataset_shards(source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    put_tar(
        source / "train-000.tar",
        {
            "000.mp4": clip,
            "000.cls": b"walk\n",
            "001.mp4": clip,
            "001.json": b'{"label": "run", "caption": "x"}',
            "002.mp4": clip,
        },
    )
    put_tar(source / "val-000.tar", {"000.mp4": clip, "000.cls": b"run"})
    found = index(source)
    assert listed(found["train"]) == {
        "train-000.tar::000.mp4": "walk",
        "train-000.tar::001.mp4": "run",
    }
    assert listed(found["val"]) == {"val-000.tar::000.mp4": "run"}
    assert "layout: webdataset" in capsys.readouterr().out
    assert (source.parent / "root" / "ignored.txt").read_text().startswith("train-000.tar::002.mp4")


def test_compressed_archives_are_refused_with_the_way_out(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "part_0.tar.gz").write_bytes(b"\x1f\x8b")
    error = refused(source, capsys)
    assert "1 compressed archives such as part_0.tar.gz" in error
    assert "data_prep k400" in error
    put(source, ["run/a.mp4"], clip)
    index(source, "--val-same")
    ignored = (source.parent / "root" / "ignored.txt").read_text()
    assert ignored.startswith("part_0.tar.gz\ta compressed archive")


def test_damaged_tars_are_named(source: Path, clip: bytes) -> None:
    put(source, ["run/a.mp4"], clip)
    (source / "bad.tar").write_bytes(b"no tar at all" * 100)
    index(source, "--val-same")
    ignored = (source.parent / "root" / "ignored.txt").read_text()
    assert ignored.startswith("bad.tar\tan archive that cannot be read")


def test_folders_of_frames_are_refused(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put(source, ["run/v1/img_00001.jpg", "run/v1/img_00002.jpg"], b"\xff\xd8\xff")
    assert "2 images such as run/v1/img_00001.jpg; folders of frames" in refused(source, capsys)


# --- UCF-101, HMDB-51 ----------------------------------------------------------------------------


def put_ucf(source: Path, clip: bytes) -> list[str]:
    names = [f"{c}/v_{c}_g0{n}_c01.avi" for c in ("Archery", "YoYo") for n in (1, 2, 3)]
    put(source, [f"UCF-101/{name}" for name in names], clip)
    lists = source / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Archery\n2 YoYo\n")
    for number in (1, 2):
        test = [name for name in names if f"_g0{number}_" in name]
        train = [f"{name} {1 + name.startswith('Y')}" for name in names if name not in test]
        (lists / f"trainlist0{number}.txt").write_text("\r\n".join(train) + "\r\n")
        (lists / f"testlist0{number}.txt").write_text("\n".join(test) + "\n")
    return names


def test_ucf101(source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    put_ucf(source, clip)
    found = index(source)
    assert found["train"].classes == ("Archery", "YoYo")
    assert found["train"].labels.tolist() == [0, 0, 1, 1]
    assert list(found["val"].paths) == [
        "UCF-101/Archery/v_Archery_g01_c01.avi",
        "UCF-101/YoYo/v_YoYo_g01_c01.avi",
    ]
    found = index(source, "--split-number", 2)
    assert found["val"].paths[0] == "UCF-101/Archery/v_Archery_g02_c01.avi"
    assert "layout: ucf101" in capsys.readouterr().out
    assert run("index", source, "--out", source.parent / "x", "--split-number", 3) == 3
    assert "holds no trainlist03.txt" in capsys.readouterr().err


def test_ucf101_as_lists(source: Path, clip: bytes) -> None:
    put_ucf(source, clip)
    folder = source.parent / "lists"
    (source / "ucfTrainTestlist").rename(folder)
    files = ("--list", folder / "trainlist01.txt", "--list", folder / "testlist01.txt")
    found = index(source, *files)
    assert found["train"].labels.tolist() == [0, 0, 1, 1]
    assert found["val"].labels.tolist() == [0, 1]


def test_a_wrong_number_in_ucf101_is_named(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put_ucf(source, clip)
    file = source / "ucfTrainTestlist" / "trainlist01.txt"
    file.write_text(file.read_text().replace("c01.avi 2", "c01.avi 1", 1))
    error = refused(source, capsys)
    assert f"{file}:3: 'YoYo/v_YoYo_g02_c01.avi' has the number 1, which is not that" in error


def test_hmdb51(source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    put(source, [f"{c}/{c} {n}.avi" for c in ("brush_hair", "wave") for n in range(3)], clip)
    for name in ("brush_hair", "wave"):
        for split in (1, 2):
            text = "".join(f"{name} {n}.avi {(n + split) % 3} \n" for n in range(3))
            (source / f"{name}_test_split{split}.txt").write_text(text)
    found = index(source)
    assert found["train"].classes == ("brush_hair", "wave")
    assert list(found["train"].paths) == ["brush_hair/brush_hair 0.avi", "wave/wave 0.avi"]
    assert list(found["val"].paths) == ["brush_hair/brush_hair 1.avi", "wave/wave 1.avi"]
    ignored = (source.parent / "root" / "ignored.txt").read_text()
    assert "wave/wave 2.avi\tin neither half of split 1\n" in ignored
    assert index(source, "--split-number", 2)["val"].paths[0] == "brush_hair/brush_hair 0.avi"
    (source / "wave_test_split1.txt").write_text("wave 0.avi 7\n")
    assert run("index", source, "--out", source.parent / "x") == 3
    assert "wave_test_split1.txt:1: 'wave 0.avi 7' is no name and 0, 1 or 2" in (
        capsys.readouterr().err
    )


# --- options -------------------------------------------------------------------------------------


def test_a_layout_may_be_forced(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (source / "train.txt").write_text("a.mp4 x\nb c.mp4 y\n")
    assert index(source)["train"].classes == ("x", "y")
    assert index(source, "--layout", "tree", "--val", 0)["train"].classes == ("run", "walk")
    assert run("index", source, "--out", source.parent / "x", "--layout", "hmdb51") == 3
    assert "is not laid out as hmdb51" in capsys.readouterr().err


def test_a_dry_run_writes_nothing_and_says_what(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    out = source.parent / "root"
    assert run("index", source, "--out", out, "--val", 0, "--dry-run") == 0
    assert not out.exists()
    printed = capsys.readouterr().out
    assert "3 videos in 2 of 2 classes" in printed
    assert "nothing was written" in printed


def test_a_set_may_be_cut_down(source: Path, clip: bytes) -> None:
    put(source, [f"{half}/{name}/{half}{n}.mp4" for half in ("train", "val")
                 for name in ("a", "b", "c") for n in range(4)], clip)  # fmt: skip
    found = index(source, "--limit-classes", 2, "--per-class", 3)
    assert found["train"].classes == ("a", "b")
    assert found["train"].labels.tolist() == found["val"].labels.tolist() == [0] * 3 + [1] * 3
    paths = list(found["train"].paths)
    assert list(index(source, "--limit-classes", 2, "--per-class", 3)["train"].paths) == paths
    others = [index(source, "--limit-classes", 2, "--per-class", 3, "--seed", n) for n in (1, 2, 3)]
    assert any(list(other["train"].paths) != paths for other in others)


def test_each_file_is_opened_once_and_not_at_all_when_fast(
    source: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(source, VIDEOS, clip)
    put(source, ["run/broken.mp4"], b"404 not found")
    (source / "train.txt").write_text("a.mp4 walk\nd.mp4 run\n")
    seen: list[str] = []
    real = scan_module.is_video
    monkeypatch.setattr(scan_module, "is_video", lambda path: seen.append(str(path)) or real(path))
    index(source)
    assert len(seen) == len(set(seen)) == 5
    seen.clear()
    index(source, "--fast")
    assert not seen
    ignored = (source.parent / "root" / "ignored.txt").read_text()
    assert "run/broken.mp4\tin no list\n" in ignored  # by its suffix it is a video


def test_a_list_of_another_project_is_not_overwritten(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (source / "train.csv").write_text("walk/a.mp4 1\n")
    assert run("index", source, "--out", source) == 3
    assert "train.csv: is no list of ours and would be replaced" in capsys.readouterr().err
    assert (source / "train.csv").read_text() == "walk/a.mp4 1\n"


def test_progress_is_lines_away_from_a_terminal(
    source: Path, clip: bytes, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    monkeypatch.setattr(scan_module, "LINE_EVERY", 0.0)
    index(source, "--val-same")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("scanning: 3 files, ")
