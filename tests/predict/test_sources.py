"""Which videos the words of `run.py predict` name, and where each one's labelled copy is put."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePath

import pytest

from tests.videos import decode_all, write_numbered
from videogn import cli
from videogn.errors import ConfigError
from videogn.predict import load
from videogn.predict.sources import find_videos
from videogn.predict.targets import labelled_paths


def test_a_folder_is_searched_and_what_cannot_be_read_is_named(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["predict", "--ckpt", checkpoint, "clips", "--json", "--topk", "2"]) == 3
    said = capsys.readouterr()
    found = [json.loads(line) for line in said.out.splitlines()]
    assert [answer["video"] for answer in found] == ["clips/one.mp4", "clips/more/two.mkv"]
    assert said.err.startswith("error: clips/bad.mp4: ")
    for answer in found:
        expected = load(checkpoint).predict(answer["video"], 2)
        assert [(p["label"], p["probability"]) for p in answer["predictions"]] == expected


def test_patterns_are_matched_and_files_come_once(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["clips/**/*.mkv", "clips/one.mp4", "clips/more"]
    assert cli.main(["predict", "--ckpt", checkpoint, *words]) == 0
    out = capsys.readouterr().out.splitlines()
    assert [line for line in out if "%" not in line] == ["clips/more/two.mkv", "clips/one.mp4"]
    assert len(out) == 12


def test_words_without_a_video_are_named_and_the_others_go_on(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("empty").mkdir()
    words = ["nothing/*.mp4", "clips/more", "empty", "missing.mp4", "clips/one.mp4"]
    assert cli.main(["predict", "--ckpt", checkpoint, *words, "--json"]) == 3
    said = capsys.readouterr()
    found = [json.loads(line)["video"] for line in said.out.splitlines()]
    assert found == ["clips/more/two.mkv", "clips/one.mp4"]
    assert said.err.splitlines() == [
        "error: no file matches nothing/*.mp4; put the pattern in quotes, or give files",
        "error: empty holds no video; give a folder that does, or files",
        "error: missing.mp4: cannot be read: No such file or directory",
    ]


@pytest.fixture
def locked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that may not be looked into, in `clips`: root's permissions cannot be taken."""
    place = Path("clips/locked")
    place.mkdir()
    scandir = os.scandir

    def look(path: str) -> Iterator[os.DirEntry]:
        if Path(path) == place:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", look)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != place)
    return place


@pytest.mark.parametrize("word", ["clips", "clips/locked", "clips/locked/*.mp4"])
def test_a_folder_that_may_not_be_read_is_not_called_empty(locked: Path, word: str) -> None:
    found = find_videos([word, "clips/more"])
    assert found.problems == ["clips/locked: cannot be read: Permission denied"]
    assert "clips/more/two.mkv" in found.places


def test_a_file_of_a_folder_that_cannot_be_read_is_named(folder: Path) -> None:
    Path("clips/gone.mp4").symlink_to("nowhere.mp4")
    found = find_videos(["clips"])
    assert found.problems == ["clips/gone.mp4: cannot be read: No such file or directory"]
    assert len(found.places) == 3


def test_labelled_videos_lie_below_the_output_as_below_the_folder_given(
    checkpoint: str, folder: Path
) -> None:
    for name in ("a", "b"):
        Path("videos", name).mkdir(parents=True)
        write_numbered(Path("videos", name, "clip.mkv"), 8)
    words = ["videos", "clips/one.mp4", "--video", "out/labelled"]
    assert cli.main(["predict", "--ckpt", checkpoint, *words]) == 0
    found = sorted(str(path) for path in Path("out").rglob("*") if path.is_file())
    assert found == [f"out/labelled/{name}.mp4" for name in ("a/clip", "b/clip", "one")]
    assert len(decode_all(Path(found[0]))) == 8


def test_videos_that_would_be_one_file_are_refused_before_anything_is_made(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["clips/more", "other/two.mkv", "--video", "out"]
    assert cli.main(["predict", "--ckpt", checkpoint, *words]) == 2
    said = capsys.readouterr()
    assert "clips/more/two.mkv and other/two.mkv would both be written to out/two.mkv.mp4" in (
        said.err
    )
    assert said.out == ""
    assert not Path("out").exists()


def test_places_of_labelled_videos(folder: Path) -> None:
    def places(*words: str) -> list[str]:
        targets = labelled_paths(Path("out"), find_videos(words).places)
        return [str(path) for path in targets.values()]

    assert places("clips") == ["out/bad.mp4", "out/one.mp4", "out/more/two.mp4"]
    assert places("clips/*/*.mkv", "clips/one.mp4") == ["out/more/two.mp4", "out/one.mp4"]
    assert places("clips/*/../one.mp4") == ["out/one.mp4"]
    assert places("a/x.avi", "b/x.mkv") == ["out/x.avi.mp4", "out/x.mkv.mp4"]


def test_labelled_videos_are_no_folders_and_no_sources_of_others(folder: Path) -> None:
    clash = {"two.mkv": PurePath("more.mkv"), "three.mkv": PurePath("more.mp4/three.mkv")}
    with pytest.raises(ConfigError, match=r"two\.mkv would be written to out/more\.mp4, which has"):
        labelled_paths(Path("out"), clash)
    with pytest.raises(ConfigError, match=r"over clips/one\.mp4, which is read too"):
        labelled_paths(Path("clips"), find_videos(["other/one.mkv", "."]).places)
