"""A manifest is read as it was written, and every mistake in it is named with its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from videogn.data.manifest import read_manifest, write_manifest
from videogn.errors import DataError


def data_root(root: Path, train: str | bytes, classes: str = "walk\nrun\n") -> Path:
    root.mkdir(exist_ok=True)
    (root / "classes.txt").write_text(classes)
    content = train if isinstance(train, bytes) else train.encode()
    (root / "train.csv").write_bytes(content)
    return root


def test_names_ids_and_further_columns(tmp_path: Path) -> None:
    root = data_root(tmp_path, "path,fold,label\na.mp4,x,run\nb/c.mp4,y,0\n")
    manifest = read_manifest(root, "train")
    assert manifest.paths == ["a.mp4", "b/c.mp4"]
    assert manifest.labels.tolist() == [1, 0]
    assert manifest.labels.dtype == np.int64
    assert manifest.classes == ("walk", "run")
    assert manifest.columns == {"fold": ["x", "y"]}
    assert manifest.videos == tmp_path.resolve()
    assert manifest.name == str(tmp_path / "train.csv")
    assert len(manifest) == 2


def test_a_name_that_looks_like_an_id_is_a_name(tmp_path: Path) -> None:
    root = data_root(tmp_path, "path,label\na.mp4,1\n", classes="1\n0\n")
    assert read_manifest(root, "train").labels.tolist() == [0]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffpath,label\na.mp4,run\n",
        "path,label\r\na.mp4,run\r\n",
        '"path","label"\n"a.mp4","run"\n\n',
        "path,label\na.mp4,run",
    ],
)
def test_what_spreadsheets_write_is_accepted(tmp_path: Path, text: str) -> None:
    manifest = read_manifest(data_root(tmp_path, text), "train")
    assert (manifest.paths, manifest.labels.tolist()) == (["a.mp4"], [1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\n", "lists no video"),
        ("", r"train\.csv:1: the header is ''"),
        ("a.mp4,run\n", r"train\.csv:1: the header is 'a.mp4,run'"),
        ("path,label,label\na.mp4,run,run\n", "names a column twice"),
        ("path,label\na.mp4,run\nb.mp4,jump\n", r"train\.csv:3: label 'jump' is neither"),
        ("path,label\na.mp4,2\n", r":2: label '2' is neither a name .* from 0 to 1"),
        ("path,label\na.mp4,-1\n", "label '-1'"),
        ("path,label\na.mp4,1.5\n", "label '1.5'"),
        ("path,label\na.mp4," + "1" * 9000 + "\n", "is neither"),
        ("path,label\na.mp4\n", ":2: 1 fields where the header has 2"),
        ("path,label\na.mp4,run,more\n", ":2: 3 fields"),
        ('path,label\n"a.mp4,run\n', "no valid csv"),
        ("path,label\n" + "a" * 200_000 + ",run\n", "no valid csv"),
        ("path,label\n,run\n", ":2: path '' does not lie"),
        ("path,label\n/etc/a.mp4,run\n", "path '/etc/a.mp4' does not lie under"),
        ("path,label\n../a.mp4,run\n", "path '../a.mp4'"),
        ("path,label\nb/../../a.mp4,run\n", "does not lie under"),
        ("path,label\n..\\a.mp4,run\n", "does not lie under"),
        ("path,label\nC:\\a.mp4,run\n", "does not lie under"),
        ("path,label\nhttp://host/a.mp4,run\n", "does not lie under"),
        ("path,label\nconcat:a|b,run\n", "does not lie under"),
        ("path,label\na.mp4,run\na.mp4,walk\n", r":3: 'a.mp4' has label 'walk' here and 'run' at"),
        ("path,label\na.mp4,läufe\n".encode("latin-1"), "byte 18 is not UTF-8"),
        ("path,label\na.mp4,run\n".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(data_root(tmp_path, text), "train")


def test_dots_that_stay_inside_are_fine(tmp_path: Path) -> None:
    root = data_root(tmp_path, "path,label\nb/../a.mp4,run\n./a..b.mp4,run\n...mp4,run\n")
    assert len(read_manifest(root, "train")) == 3


@pytest.mark.parametrize(
    ("classes", "message"),
    [("", "no class name"), ("a\n\nb\n", ":2: '' is no class"), ("a\nb\na\n", "also on line 1")],
)
def test_classes_must_be_names_that_differ(tmp_path: Path, classes: str, message: str) -> None:
    root = data_root(tmp_path, "path,label\na.mp4,0\n", classes=classes)
    with pytest.raises(DataError, match=message):
        read_manifest(root, "train")


def test_what_is_missing_comes_with_the_command_that_makes_it(tmp_path: Path) -> None:
    command = "python -m data_prep index SRC --out"
    with pytest.raises(DataError, match=f"no such data root; .*{command}"):
        read_manifest(tmp_path / "nowhere", "train")
    root = data_root(tmp_path, "path,label\na.mp4,run\n")
    with pytest.raises(DataError, match=f"val.csv: no such file; .*{command}"):
        read_manifest(root, "val")
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.txt: cannot be read"):
        read_manifest(root, "train")


def test_the_video_root(tmp_path: Path) -> None:
    root = data_root(tmp_path / "root", "path,label\na.mp4,run\n")
    for folder in ("beside", "moved"):
        (tmp_path / folder).mkdir()
    (root / "source.txt").write_text("../beside\n")
    assert read_manifest(root, "train").videos == (tmp_path / "beside").resolve()
    moved = tmp_path / "moved"
    assert read_manifest(root, "train", videos=moved).videos == moved.resolve()
    (root / "source.txt").write_text(str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"source\.txt: no folder .*gone; set data\.videos"):
        read_manifest(root, "train")
    with pytest.raises(DataError, match=r"data\.videos: no folder"):
        read_manifest(root, "train", videos=tmp_path / "gone")


NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0:\\"), min_size=1, max_size=8)


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(names=st.lists(NAMES, min_size=1, max_size=5, unique=True), note=st.text(max_size=8))
def test_what_is_written_is_read(tmp_path: Path, names: list[str], note: str) -> None:
    note = note.replace("\0", "").encode("utf-8", "ignore").decode()
    paths = [f"folder/{name.replace('/', '_')}.mp4" for name in names]
    rows = [{"path": path, "label": "run", "note": note} for path in paths]
    write_manifest(tmp_path, splits={"train": rows}, classes=["walk", "run"], source=None)
    manifest = read_manifest(tmp_path, "train")
    assert manifest.paths == paths
    assert manifest.labels.tolist() == [1] * len(paths)
    assert manifest.columns["note"] == [note] * len(paths)


def test_writing_leaves_no_other_file_and_no_stale_source(tmp_path: Path) -> None:
    rows = [{"path": "a.mp4", "label": "run"}]
    splits = {"train": rows, "val": rows}
    write_manifest(tmp_path, splits=splits, classes=["run"], source=tmp_path)
    assert (tmp_path / "source.txt").read_text() == f"{tmp_path}\n"
    assert (tmp_path / "train.csv").read_bytes() == b"path,label\r\na.mp4,run\r\n"
    write_manifest(tmp_path, splits=splits, classes=["run"], source=None)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["classes.txt", "train.csv", "val.csv"]
    with pytest.raises(DataError, match="is no class name"):
        write_manifest(tmp_path, splits=splits, classes=["two\nlines"], source=None)
