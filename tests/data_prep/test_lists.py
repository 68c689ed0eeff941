"""Lists of every project are read as they are meant, wherever they were written."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.data_prep.trees import (
    SKIING,
    clip,
    index,
    listed,
    put,
    put_lists,
    refused,
    run,
    source,
)
from videogn.data.kinetics import kinetics400_classes
from videogn.data.manifest import read_manifest
from videogn.data.tables import read_table

__all__ = ["clip", "source"]  # fixtures

VIDEOS = ("walk/a.mp4", "run/b c.mp4", "run/d.mp4")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("train.csv", "walk/a.mp4 1\nrun/b c.mp4 0\n"),  # PySlowFast
        ("train.csv", "walk/a.mp4,1\nrun/b c.mp4,0\n"),
        ("train.csv", '"walk/a.mp4",1\n"run/b c.mp4",0\n'),
        ("train.csv", "walk/a.mp4;walk\r\nrun/b c.mp4;run\r\n"),
        ("train.csv", "path,label\nwalk/a.mp4,walk\n\"run/b c.mp4\",run\n"),
        ("train.csv", "Label;File\nwalk;walk/a.mp4\nrun;run/b c.mp4\n"),
        ("train.tsv", "video\tclass\nwalk/a.mp4\twalk\nrun/b c.mp4\trun\n"),
        ("train_list.txt", "walk/a.mp4  1\nrun/b c.mp4  0\n"),  # VideoMAE
        ("train_list.txt", "\ufeffwalk/a.mp4\t1\nrun/b c.mp4\t0\n"),
        ("train_list.txt", "walk/a.mp4 walk\nrun/b c.mp4 run\n\n"),
        ("train_list.txt", "walk/a 1\nrun/b c 0\n"),  # without suffix
        ("train_list.txt", "/data/old/walk/a.mp4 1\n/data/old/run/b c.mp4 0\n"),
        ("train_list.txt", "walk\\a.mp4 1\nrun\\b c.mp4 0\n"),
        ("train_list.txt", "a.mp4 1\nb c.mp4 0\n"),
        ("train_list.txt", "walk/a.mp4\nrun/b c.mp4\n"),  # the folder is the class
        ("train_list.txt", "walk/a.avi 2\nrun/b c.avi 1\n"),  # re-encoded; 1-based, by folder
        ("train.json", '[{"video": "walk/a.mp4", "label": "walk"}, '
                       '{"video": "run/b c.mp4", "label": "run"}]'),
        ("train.json", '{"walk/a.mp4": "walk", "run/b c.mp4": "run"}'),
        ("all.json", '{"a": {"subset": "training", "annotations": {"label": "walk"}}, '
                     '"b c": {"subset": "training", "annotations": [{"label": "run"}]}}'),
        ("all.jsonl", '{"file": "walk/a.mp4", "action": "walk", "split": "train"}\n'
                      '{"file": "run/b c.mp4", "action": "run", "split": "train"}\n'),
    ],
)  # fmt: skip
@pytest.mark.parametrize("given", [True, False])
def test_lists_of_every_form(
    source: Path, clip: bytes, name: str, text: str, given: bool,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    put(source, VIDEOS, clip)
    if not given and name.startswith("all"):
        name = name.replace("all", "annotations")
    file = (source.parent if given else source) / name
    file.write_bytes(text.encode())
    found = index(source, "--list", file) if given else index(source)
    assert set(found) == {"train"}
    assert listed(found["train"]) == {"run/b c.mp4": "run", "walk/a.mp4": "walk"}
    assert found["train"].classes == ("run", "walk")
    ignored = (source.parent / "root" / "ignored.txt").read_text()
    assert ignored == "run/d.mp4\tin no list\n"
    assert "layout: lists" in capsys.readouterr().out


def test_non_local_lists_and_files_of_another_copy(source: Path, clip: bytes) -> None:
    ids = [f"{letter * 10}-" for letter in "abc"]
    put(
        source,
        [
            f"train/riding a bike/{ids[0]}_000001_000011.mkv",
            f"train/yoga/{ids[1]}_000001_000011.mp4",
            f"val/yoga/{ids[2]}_000001_000011.mp4",
        ],
        clip,
    )
    train, val = put_lists(
        source,
        trainlist_dot_txt=f"train_256/riding_a_bike/{ids[0]}.mp4 0\n"
                          f"train_256/yoga/{ids[1]}.mp4 1\ntrain_256/yoga/nothing-abc.mp4 1\n",
        vallist_dot_txt=f"val_256/yoga/{ids[2]}.mp4 1\n",
    )  # fmt: skip
    found = index(source, "--list", train, "--list", val)
    assert list(listed(found["train"]).values()) == ["riding a bike", "yoga"]
    assert found["val"].columns["youtube_id"] == [ids[2]]
    missing = read_table(source.parent / "root" / "missing.csv", ("path", "place"))
    assert missing[0].fields["path"] == "train_256/yoga/nothing-abc.mp4"
    assert missing[0].fields["place"] == f"{train}:3"


def test_numbers_have_the_names_that_stand_beside_the_list(source: Path, clip: bytes) -> None:
    put(source, ["x/a.mp4", "x/b.mp4", "x/c.mp4"], clip)
    (source / "train.txt").write_text("a.mp4 0\nb.mp4 2\nc.mp4 1\n")
    (source / "label_map.txt").write_text("zero\none\ntwo\n")
    found = index(source)
    assert found["train"].classes == ("zero", "one", "two")
    assert listed(found["train"]) == {"x/a.mp4": "zero", "x/b.mp4": "two", "x/c.mp4": "one"}
    names = source.parent / "names.json"
    names.write_text(json.dumps({"B": 1, "A": 0, "C": 2}))
    assert index(source, "--classes", names)["train"].classes == ("A", "B", "C")
    (source / "label_map.txt").unlink()
    assert index(source)["train"].classes == ("0", "1", "2")


def test_numbers_from_1_need_a_word(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, ["x/a.mp4", "x/b.mp4", "x/c.mp4"], clip)
    (file,) = put_lists(source, train_dot_txt="a.mp4 1\nb.mp4 2\nc.mp4 2\n")
    error = refused(source, capsys, "--list", file)
    assert f"{file}:2: the labels run from 1 to 2; say whether the first class is 1 or 0" in error
    found = index(source, "--list", file, "--first-label", 1)
    assert (found["train"].classes, found["train"].labels.tolist()) == (("1", "2"), [0, 1, 1])
    assert "another id" not in capsys.readouterr().out
    (names,) = put_lists(source, names_dot_txt="run\nwalk\n")
    out = source.parent / "second"
    arguments = ("index", source, "--out", out, "--list", file, "--classes", names)
    assert run(*arguments) == 3
    assert "--first-label" in capsys.readouterr().err
    assert run(*arguments, "--first-label", 0) == 3
    assert f"{file}:2: label 2 is no id from 0 to 1" in capsys.readouterr().err
    assert run(*arguments, "--first-label", 1) == 0
    assert read_manifest(out, "train").classes == ("run", "walk")
    assert read_manifest(out, "train").labels.tolist() == [0, 1, 1]


def test_numbers_of_kinetics_are_its_ids(source: Path, clip: bytes) -> None:
    ids = [f"{letter * 11}" for letter in "abc"]
    put(source, [f"flat/{name}.mp4" for name in ids], clip)
    (file,) = put_lists(
        source,
        train_dot_csv="".join(
            f"{name}.mp4 {n}\n" for name, n in zip(ids, (308, 0, 399), strict=True)
        ),
    )
    found = index(source, "--list", file)
    assert found["train"].classes == tuple(kinetics400_classes())
    assert listed(found["train"])[f"flat/{ids[0]}.mp4"] == SKIING
    assert found["train"].columns["youtube_id"] == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "lists no video"),
        ("walk/v1 300 0\nrun/v2 250 1\n", ":1: 'walk/v1 300 0' names a folder of frames"),
        ("walk/a.mp4 1 2\nrun/b c.mp4 1\n", ":1: '1 2' are several numbers"),
        ("walk/a.mp4 1\nrun/b c.mp4 0\nand so on\n" * 60, ":3: 'and so on' is no `path label`"),
        ("x/a.mp4 1\nx/e.mp4 0\n", ":1: 'x/a.mp4' is no video under .*nor is that of 1 other row"),
        ("d.mp4 0\nrun/d.mp4 1\n", ":2: 'run/d.mp4' is '1' here and '0' at .*:1; keep one label"),
        ('"walk/a.mp4",1\n"run/b c.mp4,0\n', ":2: is no valid csv"),
        ("path,label\nwalk/a.mp4,walk\nrun/d.mp4\n", ":3: 1 fields where the header has 2"),
        ("path,label,split\nwalk/a.mp4,walk,holdout\n", ":2: split 'holdout' is none of train"),
        ("path,label\n,walk\n", ":2: names no video"),
    ],
)
def test_what_is_wrong_in_a_list_is_named(
    source: Path, clip: bytes, text: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (file,) = put_lists(source, train_dot_txt=text)
    error = refused(source, capsys, "--list", file)
    assert re.search(message, error), error
    assert str(file) in error


def test_json_that_is_none_is_named(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (file,) = put_lists(source, train_dot_jsonl='{"file": "walk/a.mp4", "label": 1}\n{"file"\n')
    assert f"{file}:2: is no valid json" in refused(source, capsys, "--list", file)
    (file,) = put_lists(source, train_dot_json="[1, 2]")
    assert f"{file}: item 1: is no object" in refused(source, capsys, "--list", file)
    (file,) = put_lists(source, train_dot_json='[{"label": "x"}]')
    assert f"{file}: item 1: has no field path" in refused(source, capsys, "--list", file)


def test_a_row_that_may_be_two_files_is_refused(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, ["run/a.mp4", "walk/a.mp4", "train/x/v.mp4", "val/x/v.mp4"], clip)
    (file,) = put_lists(source, train_dot_txt="a.mp4 0\n")
    assert ":1: 'a.mp4' may be 'run/a.mp4' or 'walk/a.mp4'" in refused(
        source, capsys, "--list", file
    )
    train, val = put_lists(source, train_dot_txt="v.mp4 0\n", val_dot_txt="v.mp4 0\n")
    found = index(source, "--list", train, "--list", val)
    assert list(found["train"].paths) == ["train/x/v.mp4"]
    assert list(found["val"].paths) == ["val/x/v.mp4"]


def test_a_training_video_in_the_validation_list_is_refused(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    train, val = put_lists(
        source, train_dot_txt="a.mp4 walk\nd.mp4 run\n", val_dot_txt="x.mp4 run\nd.mp4 run\n"
    )
    error = refused(source, capsys, "--list", train, "--list", val)
    assert (
        f"{train}:2: path 'run/d.mp4' is for training here and for validation at {val}:2" in error
    )


def test_a_youtube_id_in_training_and_validation_is_refused(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    name = "-" * 11
    put(source, [f"train/yoga/{name}_000001_000011.mp4", f"val/yoga/{name}_000002_000012.mp4"],
        clip)  # fmt: skip
    error = refused(source, capsys)
    assert f"YouTube id {name!r} is for training here and for validation at val/yoga/" in error


def test_rows_of_files_elsewhere_are_told_from_those_of_none(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, [*VIDEOS, "notes/page.mp4"], clip)
    (source / "notes/page.mp4").write_text("no video")
    put(source.parent, ["elsewhere/far.mp4"], clip)
    far = source.parent / "elsewhere/far.mp4"
    text = f"a.mp4 walk\nd.mp4 run\n{far} run\nnone.mp4 run\nnotes/page.mp4 run\n"
    (file,) = put_lists(source, train_dot_txt=text)
    assert len(index(source, "--list", file, "--val", 0)["train"]) == 2
    missing = read_table(source.parent / "root" / "missing.csv", ("path", "reason"))
    reasons = ["lies outside the folder", "no such file", "is no video, see ignored.txt"]
    assert [row.fields["reason"] for row in missing] == reasons
    printed = capsys.readouterr().out
    assert "  3 rows without a video, listed in " in printed
    assert f"{far} ({file}:3): lies outside the folder\n" in printed
    file.write_text(f"{far} run\n")
    assert run("index", source, "--list", file, "--out", source.parent / "new") == 3
    assert f"under {source} (lies outside the folder); check the folder" in capsys.readouterr().err


def test_a_list_that_cannot_be_read_is_not_called_unprepared(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    for path, reason in (
        (source.parent / "no.csv", "(No such file or directory); check the path\n"),
        (source, "(Is a directory); check the path and its permissions\n"),
    ):
        assert run("index", source, "--list", path, "--out", source.parent / "root") == 3
        assert f"{path}: cannot be read {reason}" in capsys.readouterr().err


def test_repeated_rows_are_counted(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (file,) = put_lists(source, train_dot_txt="a.mp4 walk\nd.mp4 run\nwalk/a.mp4 walk\n")
    assert len(index(source, "--list", file)["train"]) == 2
    assert "1 row repeats an earlier one and is left out\n" in capsys.readouterr().out


def test_labels_csv_beside_the_videos(source: Path, clip: bytes) -> None:
    put(source, ["videos/a.mp4", "videos/b.mp4"], clip)
    (source / "labels.csv").write_text("filename,label\na,walk\nb,run\n")
    found = index(source, "--val", 0)
    assert listed(found["train"]) == {"videos/a.mp4": "walk", "videos/b.mp4": "run"}


def test_a_text_that_is_no_list_does_not_hide_the_tree(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (source / "readme_test.txt").write_text("Some words.\n")
    (source / "list.json").write_text("{")
    index(source, "--val-same")
    assert "layout: tree" in capsys.readouterr().out


def test_ids_that_sorting_folders_swapped_are_put_right(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    names = kinetics400_classes()
    folders = sorted(re.sub(r"[()']", "", name) for name in names)  # as torchvision lists them
    files = [f"{folder}/{n:011}.mp4" for n, folder in enumerate(folders)]
    put(source, files, clip)
    (file,) = put_lists(
        source, train_dot_txt="".join(f"{path} {n}\n" for n, path in enumerate(files))
    )
    found = index(source, "--list", file, "--fast")
    assert found["train"].classes == names
    assert listed(found["train"])[files[folders.index(SKIING[:6] + " not slalom or crosscountry")]
                                  ] == SKIING  # fmt: skip
    assert "2 classes have another id here than in the list" in capsys.readouterr().out


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_lists_in_other_encodings(source: Path, clip: bytes, encoding: str) -> None:
    put(source, ["ünï/视频.mp4"], clip)
    (file,) = put_lists(source, train_dot_txt="ünï/视频.mp4 läufe\r".encode(encoding))
    assert listed(index(source, "--list", file)["train"]) == {"ünï/视频.mp4": "läufe"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a.mp4 walk\nd.mp4 läufe\n".encode("latin-1"),
            ":2: byte 18 of the file, 0xe4, is not UTF",
        ),
        (b"a.mp4 " + b"1" * 200_000 + b"\n", None),
        (b"a" * 200_000 + b".mp4 1\n", ":1: 'aaa"),
        (b"path,label\na.mp4," + b"x" * 200_000 + b"\n", None),
        (b"\x00\x01\x02 \x03\n", ":1: "),
        (b"[" * 100_000, ":1: "),
    ],
)
def test_hostile_lists_do_not_crash(
    source: Path, clip: bytes, text: bytes, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (file,) = put_lists(source, train_dot_txt=text)
    if message is None:
        assert len(index(source, "--list", file)["train"]) == 1
    else:
        assert f"{file}{message}" in refused(source, capsys, "--list", file)
    (file,) = put_lists(source, train_dot_json=b"[" * 100_000)
    out = source.parent / "second"
    assert run("index", source, "--out", out, "--list", file) == 3
    assert "train.json:1: is no valid json" in capsys.readouterr().err


def test_names_that_a_shell_would_run_are_only_names(source: Path, clip: bytes) -> None:
    names = ["-rf x.mp4", "$(touch pwned).mp4", "a;b|c.mp4", "quo'te\".mp4", "new\nline.mp4"]
    put(source, [f"run/{name}" for name in names], clip)
    found = index(source, "--val", 0)
    assert list(found["train"].paths) == sorted(f"run/{name}" for name in names)
    assert not list(source.parent.rglob("pwned"))


def test_an_older_data_root_in_the_source_is_no_list(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    assert run("index", source, "--out", source / "old", "--val", "0.4") == 0
    index(source)
    said = capsys.readouterr().out
    assert said.count("layout: tree (") == 2, said


def test_a_list_named_like_a_file_of_classes_is_a_list(source: Path, clip: bytes) -> None:
    put(source, VIDEOS, clip)
    (source / "labels.txt").write_text("a.mp4 walk\nd.mp4 run\n")
    assert index(source, "--val", 0)["train"].classes == ("run", "walk")


def test_the_last_word_of_a_list_names_its_split(source: Path, clip: bytes) -> None:
    put(source, VIDEOS, clip)
    train, val = put_lists(
        source, trainset_train_dot_txt="a.mp4 walk\nd.mp4 run\n", trainset_val_dot_txt="b c run\n"
    )
    assert set(index(source, "--list", train, "--list", val)) == {"train", "val"}


def test_a_single_folder_is_no_class_of_a_numbered_list(source: Path, clip: bytes) -> None:
    put(source, ["clips/a.mp4", "clips/b.mp4"], clip)
    (file,) = put_lists(source, train_dot_txt="a.mp4 0\nb.mp4 0\n")
    assert index(source, "--list", file)["train"].classes == ("0",)


def test_classes_that_differ_in_punctuation_only_stay_apart(source: Path, clip: bytes) -> None:
    put(source, VIDEOS, clip)
    (names,) = put_lists(source, names_dot_txt="C\nC++\nc\n")
    (file,) = put_lists(source, train_dot_txt="a.mp4 C++\nd.mp4 C\n")
    found = index(source, "--list", file, "--classes", names)
    assert listed(found["train"]) == {"run/d.mp4": "C", "walk/a.mp4": "C++"}
    (file,) = put_lists(source, train_dot_txt="a.mp4 C#\nd.mp4 C\n")
    out = source.parent / "second"
    assert run("index", source, "--out", out, "--list", file, "--classes", names) == 3


def test_only_files_of_kinetics_get_its_columns(source: Path, clip: bytes) -> None:
    put(source, ["yoga/-----------.mp4", "yoga/mine.mp4", "situp/-----------2.mp4"], clip)
    assert set(index(source, "--val", 0)["train"].columns) == {"label_id"}
    put(source, ["my own/abcdefghijk.mp4"], clip)
    for path in ("yoga/mine.mp4", "situp/-----------2.mp4"):
        (source / path).unlink()
    assert set(index(source, "--val", 0)["train"].columns) == {"label_id"}


def test_list_and_annotations_exclude_each_other(
    source: Path, clip: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    put(source, VIDEOS, clip)
    (file,) = put_lists(source, train_dot_txt="a.mp4 x\n")
    error = refused(source, capsys, "--list", file, "--annotations", file)
    assert "give one of the two" in error
