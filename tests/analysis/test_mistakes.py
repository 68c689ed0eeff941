"""Per-class scores and confusions, counted by hand; calibration computed by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from videogn.analysis.calibration import Bin, calibration
from videogn.analysis.mistakes import ClassScore, Pair, class_scores, confused_pairs
from videogn.analysis.mistakes import confusion_matrix as matrix
from videogn.report.predictions import Prediction

about: Any = pytest.approx  # stands for a float


def said(
    label: str, prediction: str, probability: float = 0.5, *, top5: bool = True, true: float = 0.25
) -> Prediction:
    """A row of a test; an empty prediction is of a video that could not be read."""
    if not prediction:
        return Prediction("v.mp4", label, "", 0.0, False, False, None, "broken")
    correct = label == prediction
    return Prediction("v.mp4", label, prediction, probability, correct, top5 or correct, true, "")


TEST = [
    *(
        said("run", "run"),
        said("run", "walk"),
        said("run", "jump"),
        said("run", "jump", top5=False),
    ),
    *(said("walk", "walk"), said("walk", "walk"), said("walk", "")),
    said("jump", "jump"),
]


def test_classes_are_scored_by_hand_the_weakest_first() -> None:
    assert class_scores(TEST) == [
        ClassScore("run", 4, 25.0, 75.0, 0, "jump", 2),
        ClassScore("walk", 3, about(200 / 3), about(200 / 3), 1, "", 0),
        ClassScore("jump", 1, 100.0, 100.0, 0, "", 0),
    ]


def test_pairs_are_counted_and_videos_not_read_are_no_confusion() -> None:
    assert confused_pairs(TEST) == [Pair("run", "jump", 2, 4), Pair("run", "walk", 1, 4)]


def test_the_matrix_has_a_row_a_label_and_a_column_for_what_could_not_be_read() -> None:
    assert matrix(TEST) == (
        ["jump", "run", "walk"],
        [[1, 0, 0, 0], [2, 1, 1, 0], [0, 0, 2, 1]],
    )


def test_calibration_of_four_videos_by_hand() -> None:
    rows = [
        said("a", "a", 0.9, true=0.9),
        said("a", "b", 0.7, true=0.2),
        said("a", "b", 0.6, true=0.0),  # counts as 1e-6
        said("a", "a", 0.2, true=0.2),
        said("a", ""),  # has no probability
    ]
    found = calibration(rows, bins=2)
    assert found is not None
    assert found.width_bins == [
        Bin(0.0, 0.5, 1, 0.2, 1.0),
        Bin(0.5, 1.0, 3, about(2.2 / 3), about(1 / 3)),
    ]
    assert found.mass_bins == [
        Bin(0.2, 0.6, 2, about(0.4), 0.5),
        Bin(0.7, 0.9, 2, about(0.8), 0.5),
    ]
    assert found.videos == 4
    assert found.ece_width == pytest.approx((0.8 + 3 * 0.4) / 4)
    assert found.ece_mass == pytest.approx((0.1 + 0.3) / 2)
    assert found.brier_top == pytest.approx((0.01 + 0.49 + 0.36 + 0.64) / 4)
    logs = [math.log(p) for p in (0.9, 0.2, 1e-6, 0.2)]
    assert found.nll == pytest.approx(-sum(logs) / 4)


def test_the_error_by_chance_is_that_of_answers_as_often_right_as_they_say() -> None:
    found = calibration([said("a", "a", 0.5), said("a", "b", 0.5)], bins=1)
    assert found is not None
    # None, one or both are right in 1, 2 and 1 of 4 cases: 0.5, 0 and 0.5 away.
    assert found.chance_width == pytest.approx(0.25, abs=0.05)
    many = calibration([said("a", "a", 0.8)] * 400, bins=1)
    assert many is not None
    assert many.ece_width == pytest.approx(0.2)
    assert many.chance_mass == pytest.approx(math.sqrt(2 / math.pi * 0.16 / 400), rel=0.2)


def test_a_bin_ends_with_its_upper_edge_and_the_ends_of_the_scale_belong_to_bins() -> None:
    found = calibration([said("a", "a", p) for p in (0.0, 0.5, 1.0)], bins=2)
    assert found is not None
    assert [(each.low, each.videos) for each in found.width_bins] == [(0.0, 2), (0.5, 1)]


def test_without_answers_there_is_no_calibration_and_without_true_probability_no_likelihood() -> (
    None
):
    assert calibration([said("a", "")]) is None
    found = calibration([Prediction("v", "a", "a", 0.5, True, True, None, "")])
    assert found is not None
    assert found.nll is None
