"""The statistics of a paired comparison, against formulas written out by hand."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from math import comb
from pathlib import Path

import numpy as np
import pytest

from videogn.cli import main
from videogn.errors import DataError
from videogn.report.compare import (
    bootstrap_interval,
    compare,
    load_test,
    mcnemar,
    paired,
    paired_interval,
)
from videogn.report.comparison_text import describe
from videogn.report.predictions import Prediction


def outcomes_of(outcomes: str, *, labels: str | None = None) -> list[Prediction]:
    """A test of videos named by number: "1" right, "5" in the top 5 only, "0" neither."""
    labels = labels or "a" * len(outcomes)
    return [
        Prediction(
            path=f"{row:03}.mp4",
            label=label,
            prediction=label if outcome == "1" else "other",
            probability=0.5,
            correct=outcome == "1",
            correct5=outcome in "15",
            true_probability=None,
            failed="",
        )
        for row, (outcome, label) in enumerate(zip(outcomes, labels, strict=True))
    ]


def write(folder: Path, rows: list[Prediction]) -> Path:
    folder.mkdir()
    with (folder / "predictions.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "label", "prediction", "probability", "correct", "top5", "failed"])
        for p in rows:
            top = f"{p.prediction}|{p.label}" if p.correct5 else p.prediction
            writer.writerow([p.path, p.label, p.prediction, 0.5, int(p.correct), top, ""])
    return folder


@pytest.mark.parametrize(("b", "c"), [(0, 0), (0, 1), (1, 0), (3, 9), (9, 3), (5, 5), (40, 22)])
def test_mcnemar_is_the_two_sided_binomial_test(b: int, c: int) -> None:
    n = b + c
    tail = sum(comb(n, k) for k in range(min(b, c) + 1)) / 2**n
    assert mcnemar(b, c) == pytest.approx(min(1.0, 2 * tail), rel=1e-12)


def test_mcnemar_of_textbook_counts_and_of_many_videos() -> None:
    assert mcnemar(1, 9) == pytest.approx(22 / 1024)  # 2 * (1 + 10) / 2**10
    # The normal approximation with continuity: z = (|b - c| - 1) / sqrt(b + c).
    z = (200 - 1) / np.sqrt(4000)
    assert mcnemar(1900, 2100) == pytest.approx(
        2 * 0.5 * np.exp(-0.717 * z - 0.416 * z * z), rel=0.05
    )
    assert 0 < mcnemar(400, 1600) < 1e-150


def test_the_interval_is_the_normal_one_with_a_video_more_to_each_side() -> None:
    # 5 and 11 of 98: the middle is 6 / 98, the variance (16 / 98 - (6 / 98)^2) / 98.
    half = 1.959964 * np.sqrt((16 / 98 - (6 / 98) ** 2) / 98)
    wanted = (100 * (6 / 98 - half), 100 * (6 / 98 + half))
    assert paired_interval(4, 10, 96) == pytest.approx(wanted)
    assert paired_interval(10, 4, 96) == pytest.approx((-wanted[1], -wanted[0]))
    assert paired_interval(0, 1, 1) == (pytest.approx(-73.3, abs=0.1), 100.0)  # no more than all


def test_the_bootstrap_is_that_of_drawing_videos_one_by_one() -> None:
    rng = np.random.default_rng(1)
    differences = np.array([-1] * 30 + [1] * 60 + [0] * 210)
    drawn = rng.choice(differences, size=(20_000, 300)).mean(axis=1) * 100
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert bootstrap_interval(30, 60, 300) == pytest.approx((low, high), abs=0.35)
    assert bootstrap_interval(3, 9, 96) == bootstrap_interval(3, 9, 96)  # the same each time
    assert bootstrap_interval(0, 0, 96) == (0.0, 0.0)


def test_both_intervals_are_told() -> None:
    a, b = [True] * 3 + [False] * 93, [False] * 3 + [True] * 9 + [False] * 84
    found = paired(a, b)
    assert (found.low, found.high) == paired_interval(3, 9, 96)
    assert (found.bootstrap_low, found.bootstrap_high) == bootstrap_interval(3, 9, 96)


def test_where_many_videos_differ_the_interval_is_that_of_drawing_videos_one_by_one() -> None:
    rng = np.random.default_rng(1)
    differences = np.array([-1] * 300 + [1] * 600 + [0] * 2100)
    drawn = rng.choice(differences, size=(2000, 3000)).mean(axis=1) * 100
    low, high = np.percentile(drawn, [2.5, 97.5])
    assert paired_interval(300, 600, 3000) == pytest.approx((low, high), abs=0.2)


@pytest.mark.parametrize(("of_a", "of_b"), [(0.0, 0.02), (0.001, 0.04), (0.05, 0.05), (0.05, 0.15)])
def test_intervals_hold_the_truth_as_often_as_they_say(of_a: float, of_b: float) -> None:
    number, covered = 96, 0.0
    for a in range(number // 2):
        for b in range(number // 2):
            low, high = paired_interval(a, b, number)
            if low <= 100 * (of_b - of_a) <= high:
                ways = comb(number, a) * comb(number - a, b)
                rest = number - a - b
                covered += ways * of_a**a * of_b**b * (1 - of_a - of_b) ** rest
    assert covered > 0.945


def test_tests_that_differ_in_no_video_leave_room_for_a_difference() -> None:
    low, high = paired_interval(0, 0, 96)
    assert low == -high
    assert 2 < high < 4  # 3 in 96 is what no case in 96 rules out


def test_a_difference_counts_pairs_not_totals() -> None:
    found = paired([True, True, False, False], [True, False, True, True])
    assert (found.a, found.b, found.difference) == (50.0, 75.0, 25.0)
    assert (found.only_a, found.only_b) == (1, 2)
    assert found.p == 1.0
    assert found.low <= 25 <= found.high


def test_tests_are_paired_by_path_whatever_their_order() -> None:
    a = outcomes_of("1150", labels="aabb")
    b = outcomes_of("0111", labels="aabb")
    found = compare(a, b[::-1])
    assert found.videos == 4
    assert (found.top1.a, found.top1.b) == (50.0, 75.0)
    assert (found.top5.a, found.top5.b, found.top5.only_b) == (75.0, 75.0, 1)
    assert (found.only_a, found.only_b) == (["000.mp4"], ["002.mp4", "003.mp4"])
    assert [(c.label, c.videos, c.a, c.b, c.change) for c in found.classes] == [
        ("b", 2, 0.0, 100.0, 100.0),
        ("a", 2, 100.0, 50.0, -50.0),
    ]


def test_a_video_of_two_labels_is_paired_with_its_own_label() -> None:
    rows = outcomes_of("10", labels="ab")
    twice = [replace(row, path="one.mp4") for row in rows]
    found = compare(twice, twice[::-1])
    assert (found.top1.only_a, found.top1.only_b) == (0, 0)
    assert (found.only_a, found.only_b) == ([], [])


def test_videos_that_one_test_could_not_read_are_told() -> None:
    a, b = outcomes_of("1100"), outcomes_of("1110")
    a[2] = replace(a[2], prediction="", failed="broken")
    text = describe(compare(a, b), "a", "b")
    assert "4 videos, of which A could not read 1 and B could not read 0: they count as" in text
    assert "could not read" not in describe(compare(b, b), "b", "b")


def test_other_videos_are_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"not of the same videos: 3 and 2 of them; only one has"):
        compare(outcomes_of("111"), outcomes_of("11"))
    with pytest.raises(DataError, match=r"differ in the label of '001.mp4': 'a' and 'b'"):
        compare(outcomes_of("11", labels="aa"), outcomes_of("11", labels="ab"))
    with pytest.raises(DataError, match="of no videos"):
        compare([], [])


def test_a_video_listed_twice_counts_twice() -> None:
    a, b = outcomes_of("10"), outcomes_of("11")
    with pytest.raises(DataError, match="not of the same videos: 3 and 2 of them; test both"):
        compare([*a, a[0]], b)
    assert compare([*a, a[0]], [*b, b[0]]).videos == 3


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        ("ab", None),
        ("abcdefghijk", "1 more class differs"),
        ("abcdefghijkl", "2 more classes differ"),
    ],
)
def test_classes_that_are_not_shown_are_counted(classes: str, words: str | None) -> None:
    a, b = (outcomes_of(outcome * len(classes), labels=classes) for outcome in "01")
    text = describe(compare(a, b), "a", "b")
    assert ("more class" in text) == bool(words)
    assert (words or "") in text


def test_the_command_tells_both_ways(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", outcomes_of("1110005", labels="aaabbbb"))
    b = write(tmp_path / "b", outcomes_of("1011111", labels="aaabbbb"))
    assert main(["compare", str(a), str(b / "predictions.csv")]) == 0
    text = capsys.readouterr().out
    assert "7 videos" in text
    assert "| top-1 | 42.86 | 85.71 | +42.86 |" in text
    assert "| b     |      4 |   0.0 | 100.0 | +100.0 |" in text
    assert "Right only in A:\n  001.mp4\n" in text
    assert main(["compare", str(a), str(b), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["top1"]["only_a"], told["top1"]["only_b"]) == (1, 4)
    assert told["top1"]["p"] == 2 * (1 + 5) / 2**5
    assert told["only_b"] == [f"{row:03}.mp4" for row in (3, 4, 5, 6)]


def test_places_without_a_test_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a", outcomes_of("11"))
    assert main(["compare", str(a), str(tmp_path)]) == 3
    assert f"{tmp_path}: holds no predictions.csv; name a tested run" in capsys.readouterr().err
    (a / "predictions.csv").write_text("path,label\nx,y\n")
    with pytest.raises(DataError, match="must name path,label,prediction"):
        load_test(a)


@pytest.mark.parametrize(("column", "value"), [(3, "x"), (3, "nan"), (4, "yes")])
def test_a_row_that_says_nothing_is_named(column: int, value: str, tmp_path: Path) -> None:
    fields = ["v.mp4", "a", "a", "0.5", "1", "a", ""]
    fields[column] = value
    path = tmp_path / "predictions.csv"
    path.write_text(f"path,label,prediction,probability,correct,top5,failed\n{','.join(fields)}\n")
    with pytest.raises(DataError, match=rf"predictions\.csv:2: \w+ is '{value}'"):
        load_test(path)
