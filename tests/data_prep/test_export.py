"""The lists of other projects hold what the data root holds, and come back the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from data_prep.__main__ import main
from tests.videos import write_numbered
from videogn.data.manifest import read_manifest, write_manifest

CLASSES = ("walk", "run", "sit")  # not sorted: ids must survive
VIDEOS = {"train": ["a/v1.mp4", "b/-v2.mp4", "b/ü,3.mp4"], "val": ["c/v4.mp4"]}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    clip = write_numbered(tmp_path / "clip.mp4", 2).read_bytes()
    videos = tmp_path / "videos"
    for path in (*VIDEOS["train"], *VIDEOS["val"]):
        (videos / path).parent.mkdir(parents=True, exist_ok=True)
        (videos / path).write_bytes(clip)
    write_root(tmp_path / "root", VIDEOS, videos)
    return tmp_path / "root"


def write_root(root: Path, videos: dict[str, list[str]], source: Path) -> None:
    rows = {
        split: [{"path": path, "label": CLASSES[n % 3]} for n, path in enumerate(paths, start=1)]
        for split, paths in videos.items()
    }
    write_manifest(root, splits=rows, classes=CLASSES, source=source)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_lists_of_pyslowfast(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "lists"
    assert run("export", root, "--format", "pyslowfast", "--out", out) == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "class_names.json", "test.csv", "train.csv", "val.csv",
    ]  # fmt: skip
    assert (out / "train.csv").read_text() == "a/v1.mp4 1\nb/-v2.mp4 2\nb/ü,3.mp4 0\n"
    assert (out / "val.csv").read_text() == (out / "test.csv").read_text() == "c/v4.mp4 1\n"
    names = json.loads((out / "class_names.json").read_text())
    assert names == {"walk": 0, "run": 1, "sit": 2}
    printed = capsys.readouterr().out
    videos = root.parent / "videos"
    assert f"DATA.PATH_TO_DATA_DIR {out} DATA.PATH_PREFIX '{videos}'" in printed


def test_the_lists_of_mmaction2(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = root.parent / "lists"
    assert run("export", root, "--format", "mmaction2", "--out", out, "--absolute") == 0
    assert sorted(file.name for file in out.iterdir()) == [
        "label_map.txt", "train_list_videos.txt", "val_list_videos.txt",
    ]  # fmt: skip
    assert (out / "label_map.txt").read_text() == "walk\nrun\nsit\n"
    videos = root.parent / "videos"
    assert (out / "val_list_videos.txt").read_text() == f"{videos}/c/v4.mp4 1\n"
    assert "data_prefix=dict(video='')" in capsys.readouterr().out


@pytest.mark.parametrize("options", [("pyslowfast",), ("mmaction2",), ("mmaction2", "--absolute")])
def test_what_is_exported_is_indexed_the_same(root: Path, options: tuple[str, ...]) -> None:
    out, again = root.parent / "lists", root.parent / "again"
    assert run("export", root, "--out", out, "--format", *options) == 0
    lists = [file for file in out.iterdir() if "train" in file.name or "val" in file.name]
    given = [word for file in lists for word in ("--list", file)]
    assert run("index", root.parent / "videos", "--out", again, *given) == 0
    for split in ("train", "val"):
        before, after = read_manifest(root, split), read_manifest(again, split)
        assert after.classes == before.classes == CLASSES
        assert dict(zip(after.paths, after.labels.tolist(), strict=True)) == dict(
            zip(before.paths, before.labels.tolist(), strict=True)
        )
        assert after.videos == before.videos


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("a b.mp4", (), "val.csv:2: 'a b.mp4' holds a blank, which the lists cannot hold"),
        ("a\tb.mp4", (), "holds a blank"),
        ("a\u2028b.mp4", ("--comma",), "holds a separator"),
        ("a,b.mp4", ("--comma",), "holds a separator"),
        ("shard.tar::a.mp4", (), "'shard.tar::a.mp4' lies in an archive"),
    ],
)
def test_what_the_lists_cannot_hold_is_refused(
    tmp_path: Path,
    path: str,
    options: tuple[str, ...],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_root(tmp_path / "root", {"train": ["ok.mp4"], "val": [path]}, tmp_path)
    out = tmp_path / "lists"
    arguments = ("export", tmp_path / "root", "--format", "pyslowfast", "--out", out)
    assert run(*arguments, *options) == 3
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_a_comma_lets_paths_hold_blanks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_root(tmp_path / "root", {"train": ["a b.mp4"]}, tmp_path)
    out = tmp_path / "lists"
    arguments = ("export", tmp_path / "root", "--out", out, "--comma", "--format")
    assert run(*arguments, "pyslowfast") == 0
    assert (out / "train.csv").read_text() == "a b.mp4,1\n"
    assert not (out / "test.csv").exists()
    assert "DATA.PATH_LABEL_SEPARATOR ," in capsys.readouterr().out
    assert run(*arguments, "mmaction2") == 3
    assert "--comma: mmaction2 separates by blanks" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("form", "path", "remedy"),
    [
        ("pyslowfast", "a b.mp4", "rename it, or give --comma"),
        ("pyslowfast", "a, b.mp4", "rename it and index again"),
        ("mmaction2", "a b.mp4", "rename it and index again"),
    ],
)
def test_a_comma_is_only_advised_where_it_helps(
    tmp_path: Path, form: str, path: str, remedy: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_root(tmp_path / "root", {"train": [path]}, tmp_path)
    assert run("export", tmp_path / "root", "--format", form, "--out", tmp_path / "lists") == 3
    assert f"which the lists cannot hold; {remedy}\n" in capsys.readouterr().err


def test_a_data_root_is_not_overwritten(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (root / "train.csv").read_bytes()
    assert run("export", root, "--format", "pyslowfast", "--out", root) == 3
    assert "is a data root, and its lists would be replaced" in capsys.readouterr().err
    assert (root / "train.csv").read_bytes() == before
