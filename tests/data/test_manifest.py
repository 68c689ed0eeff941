"""A manifest is read as it was written, and every mistake in it is named with its line."""

from __future__ import annotations

import csv
import gc
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from videogn.data import manifest as manifest_module
from videogn.data.frame_index import FrameIndex
from videogn.data.kinetics import has_video_id, kinetics400_classes, spelling, video_id
from videogn.data.manifest import Manifest, read_manifest, read_table, write_manifest
from videogn.data.splits import require_disjoint
from videogn.data.strings import PackedStrings
from videogn.data.tables import line_of
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
        "path,label\ra.mp4,run\r",
        "path,label\r\n\r\na.mp4,run\r\n",
        " path, label\na.mp4, run \n",
        "path,label\na.mp4,01\n",
        "path,label\na.mp4,run\n".encode("utf-16"),
        "\ufeffpath,label\na.mp4,run\n".encode("utf-16-be"),
    ],
)
def test_what_spreadsheets_write_is_accepted(tmp_path: Path, text: str | bytes) -> None:
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
        ("path,label\na.mp4,run\n\nb.mp4\n", ":4: 1 fields"),
        ('path,label\n"a\nb.mp4",run\nb.mp4,jump\n', r"train\.csv:4: label 'jump'"),
        ('path,label\na.mp4,run\n"b.mp4,run\nc.mp4,run\n', r"train\.csv:3: is no valid csv"),
        ("path,label\n" + "a" * 200_000 + ",run\n", ":2: path 'a+'... has 200000 characters"),
        ("path,label\na.mp4," + "a" * 200_000 + "\n", ":2: label 'a{120}'... is neither"),
        ("path,label\na.mp4," + "a" * 17_000_000 + "\n", ":2: is no valid csv"),
        ("path,label\n,run\n", ":2: path '' is empty"),
        ("path,label\na.mp4,\n", ":2: label '' is neither"),
        ("path,label\na\0.mp4,run\n", "holds a NUL"),
        ("path,label\n/etc/a.mp4,run\n", "path '/etc/a.mp4' does not lie under"),
        ("path,label\n../a.mp4,run\n", "path '../a.mp4'"),
        ("path,label\nb/../../a.mp4,run\n", "does not lie under"),
        ("path,label\n..\\a.mp4,run\n", "does not lie under"),
        ("path,label\n\\a.mp4,run\n", "does not lie under"),
        ("path,label\nC:\\a.mp4,run\n", "does not lie under"),
        ("path,label\nhttp://host/a.mp4,run\n", "does not lie under"),
        ("path,label\nconcat:a|b,run\n", "does not lie under"),
        ("path,label\n/etc/a.tar::b.mp4,run\n", "path '/etc/a.tar::b.mp4' does not lie under"),
        ("path,label\n../a.tar::b.mp4,run\n", "does not lie under"),
        ("path,label\nconcat:a.tar::b.mp4,run\n", "does not lie under"),
        ("path,label\na.tar::,run\n", ":2: path 'a.tar::' names no member"),
        (
            "path,label\na.mp4,run\na.mp4,walk\n",
            r":3: 'a.mp4' has label 'walk' here and 'run' at .*train\.csv:2; keep one",
        ),
        (
            "path,label\nb.mp4,run\nä.mp4,läufe\n".encode("latin-1"),
            r"train\.csv:3: byte 21 of the file, 0xe4, is not UTF-8",
        ),
        ("path,label\na.mp4,run\n".encode("utf-16")[:-1], "is not UTF-16"),
        ("path,label\na.mp4,run\n".encode("utf-16-le"), ":1: the header is"),
        (
            "path,label\na.mp4,1\nb.mp4,2\n",
            r"train\.csv:3: label '2' is past the last id 1: the labels run from 1 to 2; sub",
        ),
        ("path,label\na.mp4,0\nb.mp4,2\n", "label '2' is neither"),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_manifest(data_root(tmp_path, text), "train")


def test_names_of_every_kind_are_names(tmp_path: Path) -> None:
    names = [
        "a b.mp4",
        "two\nlines.mp4",
        'quo"ted.mp4',
        "semi;colon.mp4",
        "$(touch x).mp4",
        "-leading.mp4",
        "ünï/视频.mp4",
        "comma,comma.mp4",
        "take 2::b.mp4",
        "shard.tar::../member: any.mp4",
        "tars/x.TAR::c:d",
        "x.tar::a/../../../b.mp4",
    ]
    rows = [{"path": name, "label": "run"} for name in names]
    write_manifest(tmp_path, splits={"train": rows}, classes=["run"], source=None)
    assert read_manifest(tmp_path, "train").paths == names
    assert line_of(tmp_path / "train.csv", 1) == 3
    assert line_of(tmp_path / "train.csv", 2) == 5


def test_the_same_row_twice_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = data_root(tmp_path, "path,label\na.mp4,run\nb.mp4,run\na.mp4,1\na.mp4,run\n")
    with caplog.at_level(logging.WARNING, manifest_module.__name__):
        assert len(read_manifest(root, "train")) == 4
    assert len(caplog.records) == 1
    assert "train.csv: 2 rows repeat a video" in caplog.text


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
    with pytest.raises(DataError, match=r"val.csv: no such file: .*--val 0\.1"):
        read_manifest(root, "val")
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"classes\.txt: no such file; index again"):
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
    with pytest.raises(DataError, match=r"source\.txt: no folder .*gone; say .*data\.videos="):
        read_manifest(root, "train")
    with pytest.raises(DataError, match=r"data\.videos: no folder"):
        read_manifest(root, "train", videos=tmp_path / "gone")


def manifests(
    root: Path, train: str, val: str, classes: str = "run\n"
) -> tuple[Manifest, Manifest]:
    root = data_root(root, train, classes)
    (root / "val.csv").write_text(val)
    return read_manifest(root, "train"), read_manifest(root, "val")


def test_a_training_video_in_validation_is_refused_by_path(tmp_path: Path) -> None:
    rows = "path,label\nb.mp4,run\na.mp4,run\n"
    train, val = manifests(tmp_path, rows, 'path,label\n"x\ny.mp4",run\na.mp4,run\n')
    with pytest.raises(
        DataError, match=r"train\.csv:3: path 'a.mp4' is also in validation, at .*val\.csv:4;"
    ):
        require_disjoint(train, val)
    require_disjoint(train, train)  # as --val-same writes them
    require_disjoint(*manifests(tmp_path, rows, "path,label\nc.mp4,run\n"))


def test_a_training_video_in_validation_is_refused_by_youtube_id(tmp_path: Path) -> None:
    train = "path,label\ntrain/a/-bcdefghijk_000001_000011.mp4,0\n"
    val = "path,label\nval/a/-bcdefghijk.mkv,0\n"
    require_disjoint(*manifests(tmp_path, train, val))  # no Kinetics: a name is only a name
    kinetics = "\n".join(kinetics400_classes())
    with pytest.raises(DataError, match=r"csv:2: YouTube id '-bcdefghijk' is also in validation"):
        require_disjoint(*manifests(tmp_path, train, val, kinetics))
    train = "path,label,youtube_id\na.mp4,0,x\nb.mp4,0,\n"
    val = "path,label,youtube_id\nc.mp4,0,{}\n"
    require_disjoint(*manifests(tmp_path, train, val.format("")))
    with pytest.raises(DataError, match="YouTube id 'x'"):
        require_disjoint(*manifests(tmp_path, train, val.format("x")))


def test_the_names_of_kinetics() -> None:
    assert video_id("train/x/-bcdefghijk_000001_000011.mp4") == "-bcdefghijk"
    assert video_id("p.tar::_bcdefghij.k.mp4") == "_bcdefghij."
    assert video_id("short.mp4") == "short"
    assert has_video_id("a/-bcdefghijk_000001_000011.mp4")
    assert has_video_id("p.tar::-bcdefghijk.webm")
    assert not has_video_id("v_Archery_g01.avi")
    assert not has_video_id("a/abcdefghijkl.mp4")
    names = kinetics400_classes()
    assert len({spelling(name) for name in names}) == len(names) == 400
    assert spelling("Skiing_(not slalom or crosscountry)") == spelling(names[308])


def test_the_index_of_frames(tmp_path: Path) -> None:
    index = FrameIndex(file_size=9, num_frames=3, pts=np.arange(3) * 512, keyframes=[(0, 0)])
    rows = [
        {"path": f"{number}.mp4", "label": "run", "index": text}
        for number, text in enumerate([index.to_text(), "", "nonsense"])
    ]
    write_manifest(tmp_path, splits={"train": rows}, classes=["run"], source=None)
    manifest = read_manifest(tmp_path, "train")
    found = manifest.index(0)
    assert found is not None
    assert found.to_text() == index.to_text()
    assert manifest.index(1) is None
    with pytest.raises(DataError, match=r"train\.csv: '2\.mp4': 'nonsense' is no index"):
        manifest.index(2)
    write_manifest(
        tmp_path, splits={"train": [{"path": "a", "label": "run"}]}, classes=["run"], source=None
    )
    assert read_manifest(tmp_path, "train").index(0) is None


@given(strings=st.lists(st.text(st.characters(codec="utf-8"), max_size=5), max_size=20))
def test_packed_strings_are_a_list_of_strings(strings: list[str]) -> None:
    packed = PackedStrings(strings)
    assert packed == strings == list(packed) == [packed[at] for at in range(len(strings))]
    assert packed == PackedStrings(strings) == pickle.loads(pickle.dumps(packed))
    assert packed[1:-1] == strings[1:-1]
    assert packed[::-2] == strings[::-2]
    assert packed != [*strings, "more"]
    assert packed != PackedStrings([*strings, ""])
    assert list(reversed(packed)) == strings[::-1]
    if strings:
        assert packed[-1] == strings[-1]
        assert strings[0] in packed
    with pytest.raises(IndexError):
        packed[len(strings)]


def test_a_large_manifest_is_buffers_and_not_objects(tmp_path: Path) -> None:
    def read(count: int) -> tuple[Manifest, int]:
        rows = [
            {"path": f"{number:06}.mp4", "label": "run", "note": "abcd"} for number in range(count)
        ]
        write_manifest(tmp_path, splits={"train": rows}, classes=["run"], source=None)
        del rows
        gc.collect()
        before = len(gc.get_objects())
        manifest = read_manifest(tmp_path, "train")
        gc.collect()
        return manifest, len(gc.get_objects()) - before

    large, objects = read(5000)
    assert objects < 100
    columns: Mapping[str, object] = {"path": large.paths, **large.columns}
    assert {type(column) for column in columns.values()} == {PackedStrings}
    # 10 + 4 bytes of text, two ends and a label of 8 bytes each: 38 a row
    assert len(pickle.dumps(large)) < 5000 * 38 + 4000


def test_reading_leaves_the_limit_of_csv_as_it_was(tmp_path: Path) -> None:
    csv.field_size_limit(before := 131_072)
    read_manifest(data_root(tmp_path, "path,label\na.mp4,run\n"), "train")
    assert csv.field_size_limit() == before


def test_reading_by_rows_gives_the_same_table(tmp_path: Path) -> None:
    root = data_root(tmp_path, 'path,label,note\n"a\nb.mp4",run,x\n\nc.mp4,0,\n')
    rows = read_table(root / "train.csv")
    assert [row.place for row in rows] == [f"{root}/train.csv:2", f"{root}/train.csv:5"]
    assert rows[0].fields == {"path": "a\nb.mp4", "label": "run", "note": "x"}
    manifest = read_manifest(root, "train")
    assert manifest.paths == [row.fields["path"] for row in rows]
    assert manifest.columns["note"] == ["x", ""]


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


def test_a_file_is_no_data_root(tmp_path: Path) -> None:
    data_root(tmp_path, "path,label\na.mp4,run\n")
    with pytest.raises(DataError, match=rf"is a file; give the folder .*, as {tmp_path}$"):
        read_manifest(tmp_path / "train.csv", "train")
