"""`run.py predict`: what it prints and writes, and what it says of what it cannot do."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from tests.checkpoints import CLASSES
from tests.videos import decode_all, write_numbered
from videogn import cli
from videogn.predict import load
from videogn.predict.answers import Answer, Span
from videogn.predict.camera import Shot, follow, shots
from videogn.predict.output import as_json, as_text, clock
from videogn.predict.overlay import Caption, caption_at, draw_labels


def test_the_table_holds_the_best_of_every_window(checkpoint: str, folder: Path) -> None:
    words = ["clips/one.mp4", "--every", "0", "--csv", "out.csv", "--topk", "3"]
    assert cli.main(["predict", "--ckpt", checkpoint, *words]) == 0
    with Path("out.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["start"], row["rank"]) for row in rows] == [
        (start, rank) for start in ("0.000", "0.267", "0.533") for rank in "123"
    ]
    spans = load(checkpoint).timeline("clips/one.mp4")
    assert [float(row["probability"]) for row in rows if row["rank"] == "1"] == pytest.approx(
        [float(span.probs.max()) for span in spans], abs=1e-6
    )


def test_features_of_all_files_stand_in_one_array(checkpoint: str, folder: Path) -> None:
    words = ["clips", "--features", "f.npz", "eval.crops=three"]
    assert cli.main(["predict", "--ckpt", checkpoint, *words]) == 3
    found = np.load("f.npz")
    assert found["features"].shape == (2, 6, 256)  # 2 clips x 3 crops
    assert found["features"].dtype == np.float32
    assert found["video"].tolist() == ["clips/one.mp4", "clips/more/two.mkv"]
    assert found["classes"].tolist() == CLASSES
    expected = load(checkpoint, ["eval.crops=three"]).probs("clips/one.mp4")
    assert found["probs"][0].tolist() == expected.tolist()


def test_a_labelled_video_has_the_frames_and_times_of_its_source(
    checkpoint: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    times = [*range(12), *range(30, 48)]
    write_numbered(Path("odd.mkv"), len(times), times=times)
    words = ["predict", "--ckpt", checkpoint, "odd.mkv", "--video", "out.mp4"]
    assert cli.main(words) == 0
    assert capsys.readouterr().err == "written: out.mp4\n"
    with av.open("out.mp4") as container:
        frames = list(container.decode(video=0))
    assert [round(frame.time * 30) for frame in frames] == times
    images = [frame.to_ndarray(format="rgb24") for frame in frames]
    assert images[0].shape == (320, 320, 3)  # enlarged by 5, that the text can be read
    for number, image in enumerate(images):
        bit = image[10:70, 290:310].mean() > 127  # the fourth of the number, beside the panel
        assert bit == bool(number & 8), number
    panel = images[5][14:90, 14:200]
    assert panel.max() > 200
    assert panel.min() < 60


def test_labels_change_with_time_and_the_timeline_shows_it(tmp_path: Path) -> None:
    source = write_numbered(tmp_path / "a.mp4", 60)
    captions = [Caption(0, 1, [("one", 0.9)], 0), Caption(1, 2, [("two", 0.2)], 1)]
    draw_labels(str(source), tmp_path / "out.mp4", captions)
    images = decode_all(tmp_path / "out.mp4")
    assert len(images) == 60
    strip = images[30, -4]
    left, right = strip[40:120].mean(0), strip[200:300].mean(0)
    assert left[2] > left[0] + 60  # blue, then orange
    assert right[0] > right[2] + 60
    bar = images[:, 24, 20:100].astype(int)
    assert (bar[10] != bar[50]).any()


def test_of_captions_the_nearest_is_shown() -> None:
    captions = [Caption(start, start + 2, [("x", 1.0)], 0) for start in (0, 2, 6)]
    found = [caption_at(captions, seconds) for seconds in (0, 1.9, 2.1, 4.9, 5.1, 99)]
    assert [captions.index(c) for c in found if c] == [0, 0, 1, 1, 2, 2]
    assert caption_at([], 1) is None


def answered(*spans: tuple[float, float, int, float]) -> Answer:
    """An answer of windows (start, end, class, probability)."""
    answer = Answer("a.mp4", is_read=True)
    for start, end, class_id, probability in spans:
        probs = torch.zeros(len(CLASSES))
        probs[class_id] = probability
        answer.spans.append(Span(start, end, 1, [(probs, torch.zeros(1))]))
    return answer


@pytest.mark.parametrize(
    ("spans", "expected"),
    [
        # windows of 5 s every 2: what two have seen is halved between them
        (
            [(0, 5, 0, 0.5), (2, 7, 0, 0.75), (4, 9, 1, 0.5), (5, 10, 2, 1.0)],
            [
                "0:00.0 - 0:05.5   62.5 %  class a",
                "0:05.5 - 0:07.0   50.0 %  class b",
                "0:07.0 - 0:10.0  100.0 %  class c",
            ],
        ),
        # every 1: three and more have seen the same
        (
            [(float(i), i + 5.0, i, 0.5) for i in range(4)],
            [
                "0:00.0 - 0:03.0   50.0 %  class a",
                "0:03.0 - 0:04.0   50.0 %  class b",
                "0:04.0 - 0:05.0   50.0 %  class c",
                "0:05.0 - 0:08.0   50.0 %  class d",
            ],
        ),
        # side by side, but for the last; and with gaps, of which nothing is told
        (
            [(0, 2, 0, 0.5), (2, 4, 1, 0.5), (3, 5, 2, 0.5), (9, 11, 3, 0.5)],
            [
                "0:00.0 - 0:02.0   50.0 %  class a",
                "0:02.0 - 0:03.5   50.0 %  class b",
                "0:03.5 - 0:05.0   50.0 %  class c",
                "0:09.0 - 0:11.0   50.0 %  class d",
            ],
        ),
    ],
)
def test_of_windows_that_overlap_each_moment_is_told_once(
    spans: list[tuple[float, float, int, float]], expected: list[str], checkpoint: str
) -> None:
    classifier, answer = load(checkpoint), answered(*spans)
    told = as_text(answer, classifier, 5, sliding=True).splitlines()
    assert told == ["a.mp4", *(f"  {line}" for line in expected)]
    seen = json.loads(as_json(answer, classifier, 1, sliding=True))["windows"]
    assert [(window["start"], window["end"]) for window in seen] == [span[:2] for span in spans]


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0:00.0"), (59.96, "1:00.0"), (62.5, "1:02.5"), (3662.5, "1:01:02.5")],
)
def test_times_are_told_as_a_clock_does(seconds: float, expected: str) -> None:
    assert clock(seconds) == expected


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ([], 2, "predict wants video files, or --camera N"),
        (["clips/one.mp4", "--camera", "0"], 2, "give one of the two"),
        (["--camera", "77"], 3, "camera /dev/video77 cannot be read (No such file or directory)"),
        (["--camera", "0", "--csv", "x.csv"], 2, "--camera goes with --json only"),
        (["nothing/*.mp4"], 3, "no file matches nothing/*.mp4"),
        (["empty"], 3, "empty holds no video"),
        (["clips", "--video", "x.mp4"], 2, "--video x.mp4 is one file for 3 videos"),
        (["clips/one.mp4", "--video", "clips/one.mp4"], 2, "would write over its own source"),
        (["clips/one.mp4", "--video", "x.mkv"], 2, "--video x.mkv: wanted a file named *.mp4"),
        (
            ["clips/one.mp4", "--csv", "clips/one.mp4"],
            2,
            "clips/one.mp4: wanted a file named *.csv",
        ),
        (["clips", "--features", "clips/one.mp4"], 2, "clips/one.mp4: wanted a file named *.npz"),
        (["clips/one.mp4", "--csv", "no/where.csv"], 2, "no/where.csv: No such file or directory"),
        (["clips/one.mp4", "--features", "no/x.npz"], 2, "no/x.npz: No such file or directory"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    words: list[str],
    code: int,
    expected: str,
    checkpoint: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("empty").mkdir()
    before = Path("clips/one.mp4").read_bytes()
    assert cli.main(["predict", "--ckpt", checkpoint, *words]) == code
    said = capsys.readouterr().err
    assert expected in said
    assert said.count("\n") == 1
    assert Path("clips/one.mp4").read_bytes() == before


def test_a_camera_is_answered_for_with_its_newest_clip(checkpoint: str, folder: Path) -> None:
    """A file's frames take the camera's place: there is none on a machine that tests."""
    classifier = load(checkpoint)
    images = decode_all(Path("clips/one.mp4"))
    source = [Shot(number / 30, image) for number, image in enumerate(images)]
    (span,) = list(follow(source, classifier, every=10.0))[-1:]
    assert round((span.end - span.start) * 30) == 7  # 4 frames, every second of 8
    assert float(span.probs.sum()) == pytest.approx(1)


def test_devices_of_ffmpeg_give_frames() -> None:
    source = shots("testsrc=size=64x48:rate=30:duration=1", "lavfi")
    images = [shot.image for shot in source]
    assert len(images) == 30
    assert images[0].shape == (48, 64, 3)
