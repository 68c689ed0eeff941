"""The whole command on a thin network: what it writes, says, and does without."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from urllib.parse import unquote

import pytest

from tests.checkpoints import write_checkpoint
from tests.test_experiment import CLASSES, make_root
from videogn import cli
from videogn.analysis.leftovers import cam_names, remove_leftovers
from videogn.errors import ConfigError

LAYERS = ["norm1", "layer4.0.norm3", "layer4.0.downsample.1"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_root(tmp_path_factory.mktemp("data") / "root", train=1, val=8)


def make_run(folder: Path, root: Path, *overrides: str) -> Path:
    """Writes a run folder with a checkpoint and recorded percentiles; returns the checkpoint."""
    path = folder / "checkpoints" / "last.pt"
    path.parent.mkdir(parents=True)
    ends = {"in": [-2.0, -1.0, 1.0, 2.0], "out": [-1.0, None, 0.5, 1.0]}
    records = [
        {
            "step": step,
            "epoch": step / 4,
            "split": "percentiles",
            "layers": dict.fromkeys(LAYERS, ends),
        }
        for step in (0, 4, 8)
    ]
    lines = [json.dumps(record) for record in (*records, {"step": 4, "split": "train", "loss": 1})]
    (folder / "metrics.jsonl").write_text("\n".join(lines))
    return write_checkpoint(path, f"data.root={root}", *overrides, classes=CLASSES)


def analyze(checkpoint: Path, *more: object) -> int:
    return cli.main(["analyze", "--ckpt", str(checkpoint), *map(str, more)])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """All that there is to find, of a network with BN; one of the videos cannot be read."""
    here = tmp_path_factory.mktemp("analysis")
    path = make_run(here / "run", root, "model.norm.kind=bn")
    video, odd, broken = root / "videos" / "val_0.mp4", here / "a <b> & c.mp4", here / "broken.mp4"
    odd.write_bytes(video.read_bytes())
    broken.write_bytes(b"no video")
    words = ["--test", "--clips", 8, "--rounds", 2, "--cam", video, broken, odd, "--class", "grow"]
    assert analyze(path, *words) == 3  # of the broken video; the others go on
    return here / "run" / "analysis_last_000000006"


def test_everything_lies_in_one_folder(folder: Path) -> None:
    found = json.loads((folder / "analysis.json").read_text())
    assert (found["step"], found["norm"]) == (6, "BN")
    assert found["test"]["num_videos"] == sum(row["videos"] for row in found["classes"]) == 8
    assert [point["epoch"] for point in found["percentiles"]] == [0, 1]  # step 8 comes later
    assert list(found["noise"]["statistics"]) == ["2", "4"]
    assert found["noise"]["answers"]["BN"]["2"]["largest"] > 0
    assert found["noise"]["answers"]["GN in its place"]["2"]["largest"] == 0
    assert [cam["file"] for cam in found["cams"]] == ["cam_val_0.mp4", "cam_a <b> & c.mp4"]
    assert {cam["class"] for cam in found["cams"]} == {"grow"}
    assert any("broken.mp4: does not begin" in sentence for sentence in found["missing"])

    with (folder / "confusion.csv").open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["label", *sorted(row[0] for row in rows), "(not read)"]
    assert sum(int(number) for row in rows for number in row[1:]) == 8
    figures = {path.stem for path in folder.glob("*.svg")}
    assert figures == {path.stem for path in folder.glob("*.png")}
    assert figures == {
        *("calibration", "confusion", "noise_answers", "noise_layers"),
        *("percentiles_first", "percentiles_last"),
    }


def test_the_page_stands_alone_and_leads_to_the_videos_beside_it(folder: Path) -> None:
    text = (folder / "analysis.html").read_text()
    links = re.findall(r'(?:src|[^:]href)="([^"]*)"', text)
    outside = [link for link in links if not link.startswith(("data:image/", "#"))]
    assert outside == ["cam_val_0.mp4", "cam_a%20%3Cb%3E%20%26%20c.mp4"]
    assert all((folder / unquote(link)).is_file() for link in outside)
    assert "<b>" not in text
    assert "Percentiles of layer4.0.norm3 over epochs" in text  # the last convolution's
    assert text.count("<svg viewBox") == text.count("</svg>") == 6
    for colour in ("#fefefe", "#58616c"):  # the page's own stand in their place
        assert colour not in text.split("</style>", 2)[2]
    assert "fill: none" in text
    assert ">0</td>" in text  # GN, to the bit


def test_what_is_missing_is_said_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(tmp_path / "x.pt", "data.root=/nowhere")
    assert analyze(path) == 0
    said = capsys.readouterr().out
    assert f"holds no test of x.pt at step 6; make one with `run.py test --ckpt {path}`" in said
    assert "none were recorded; train with eval.percentiles_every_epochs=1" in said
    assert "The noise of batches: /nowhere" in said
    found = json.loads((tmp_path / "analysis_x_000000006" / "analysis.json").read_text())
    assert (found["test"], found["noise"]) == (None, None)
    assert (len(found["not_asked"]), found["missing"]) == (3, [])


def test_what_nobody_asked_for_is_no_problem_of_the_page(tmp_path: Path) -> None:
    plain = write_checkpoint(tmp_path / "plain.pt", "data.root=/nowhere")
    wanted = write_checkpoint(tmp_path / "wanted.pt", "eval.percentiles_every_epochs=1")
    for path in (plain, wanted):
        assert analyze(path, "--clips", 0) == 0
    quiet, told = (
        (tmp_path / f"analysis_{name}_000000006" / "analysis.html").read_text()
        for name in ("plain", "wanted")
    )
    assert "What could not be shown" not in quiet
    assert quiet.index("<footer") > quiet.rindex("</header>")
    assert "(Fig. 6): none were recorded" in quiet[quiet.index("<footer") :]
    problems, rest = told[told.index("What could not be shown") :].split("</section>")[:2]
    assert f"(Fig. 6): {tmp_path}/metrics.jsonl holds none of step 6 or before." in problems
    assert "(Fig. 6)" not in rest


def test_a_second_analysis_leaves_of_the_first_only_what_its_page_shows(
    tmp_path: Path, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make_run(tmp_path / "run", root)
    videos = [tmp_path / name / "clip.mp4" for name in ("a", "b")]
    for video in videos:
        video.parent.mkdir()
        video.write_bytes((root / "videos" / "val_0.mp4").read_bytes())
    out = tmp_path / "out"
    out.mkdir()
    (out / "noise_layers.png").write_text("mine: no analysis was here yet")
    assert analyze(path, "--clips", 0, "--out", out, "--cam", *videos) == 0
    figures = {f"percentiles_{end}.{kind}" for end in ("first", "last") for kind in ("png", "svg")}
    results = {"analysis.json", "analysis.html"}
    heat = {"cam_a_clip.mp4", "cam_b_clip.mp4"}
    assert names(out) == results | figures | heat | {"noise_layers.png"}
    assert "Removed" not in capsys.readouterr().out

    (out / "cam_mine.mp4").write_text("no analysis wrote this")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    (out / "noise_layers.png").unlink()
    assert analyze(path, "--clips", 0, "--out", out, "--cam", videos[1]) == 0
    assert names(out) == results | {"cam_clip.mp4", "cam_mine.mp4"}
    said = capsys.readouterr().out
    assert (
        f"Removed, of an earlier analysis: {', '.join([*sorted(figures), *sorted(heat)])}" in said
    )


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("videos", "expected"),
    [
        (["a/clip.mkv", "b/clip.mkv"], ["cam_a_clip.mp4", "cam_b_clip.mp4"]),
        (["a/clip.mkv", "b/Clip.mp4", "c/x"], ["cam_a_clip.mp4", "cam_b_Clip.mp4", "cam_x.mp4"]),
        (["x/a/v.mp4", "y/a/v.mp4"], ["cam_a_v.mp4", "cam_a_v_1.mp4"]),
        (["a/v.mp4", "b/v.mp4", "a_v.mp4"], ["cam_a_v.mp4", "cam_b_v.mp4", "cam_a_v_1.mp4"]),
        (["v.mp4", "cam_v.mp4"], ["cam_v_1.mp4", "cam_cam_v.mp4"]),  # overwrites no video
    ],
)
def test_heat_of_videos_of_one_name_has_names_of_its_own(
    videos: list[str], expected: list[str]
) -> None:
    assert cam_names(videos) == expected


@pytest.mark.parametrize("file", ["../cam_x.mp4", "notes.mp4", "cam_notes.txt", 3, None])
def test_only_names_that_an_analysis_gives_are_removed(tmp_path: Path, file: object) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    others = [tmp_path / "cam_x.mp4", folder / "notes.mp4", folder / "cam_notes.txt"]
    for path in others:
        path.write_text("mine")
    (folder / "pairs.csv").write_text("of an analysis")
    (folder / "analysis.json").write_text(json.dumps({"cams": [{"file": file}, file]}))
    assert remove_leftovers(folder, ["analysis.html"]) == ["pairs.csv"]
    assert all(path.exists() for path in others)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class", "fly"], "--class 'fly' is none of the 7 classes: class a, "),
        (["--layer", "layer9"], "--layer layer9: the network has conv1, "),
        (["model.width=4"], "leave out the override"),
    ],
)
def test_a_wrong_wish_is_refused_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    path = write_checkpoint(tmp_path / "x.pt")
    assert analyze(path, *words) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in tmp_path.iterdir()] == ["x.pt"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--clips", "7"], "argument --clips: 7 clips: the noise of batches needs at least 8; 0 "),
        (["--clips", "-1"], "argument --clips: -1 clips: "),
        (["--clips", "few"], "argument --clips: 'few' is no whole number"),
        (["--rounds", "1"], "argument --rounds: 1: answers are compared between batches"),
    ],
)
def test_numbers_too_small_to_measure_with_are_refused(
    capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        analyze(Path("x.pt"), *words)
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_a_part_that_fails_does_not_take_the_others_with_it(
    tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def exhausted(*_: object, **__: object) -> None:
        raise MemoryError

    def refused(*_: object, **__: object) -> None:
        raise ConfigError("no test here")

    monkeypatch.setattr("videogn.analysis.analyze.measure_noise", exhausted)
    monkeypatch.setattr("videogn.analysis.analyze.run_test", refused)
    path = write_checkpoint(tmp_path / "x.pt", f"data.root={root}", classes=CLASSES)
    video = root / "videos" / "val_0.mp4"
    assert analyze(path, "--test", "--clips", 8, "--cam", video) == ConfigError.exit_code
    said = capsys.readouterr().out
    assert "The test: no test here." in said
    assert "add --test" not in said
    assert "The noise of batches: out of memory in the noise of batches on cpu" in said
    assert "Heat: " in said
    assert (tmp_path / "analysis_x_000000006" / "cam_val_0.mp4").stat().st_size > 0


def test_videos_that_cannot_be_read_are_named_and_the_others_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured: list[int] = []
    monkeypatch.setattr(
        "videogn.analysis.analyze.measure_noise",
        lambda model, clips, *_, **__: measured.append(len(clips)),
    )
    root = make_root(tmp_path / "root", train=1, val=9)
    (root / "videos" / "val_3.mp4").write_bytes(b"no video")
    path = write_checkpoint(tmp_path / "x.pt", f"data.root={root}", classes=CLASSES)
    assert analyze(path) == 3
    said = capsys.readouterr().out
    assert re.search(r"The noise of batches: without .*val_3\.mp4: does not begin like", said)
    assert measured == [8]


@pytest.mark.parametrize("words", [["--clips", "8"], ["data.root=/nowhere"], ["--test"]])
def test_data_that_were_asked_for_and_are_gone_are_a_failure(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_checkpoint(tmp_path / "x.pt", "data.root=/nowhere")
    assert analyze(path, *words) == 3
    assert "/nowhere: no such data root" in capsys.readouterr().out
