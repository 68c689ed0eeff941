"""What a test writes of each video reads back as what it found."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from videogn.data.manifest import Manifest
from videogn.engine.evaluate import ViewAverager
from videogn.report.predictions import Prediction, read_predictions, surest, write_predictions

CLASSES = ("left", "a|b", 'he said "no", twice', "up", "down", "grow")


def test_what_is_written_reads_back_with_any_name_and_with_failures(tmp_path: Path) -> None:
    manifest = Manifest(
        name="val.csv",
        paths=("1, 2.mp4", "b.mp4", "gone.mp4"),
        labels=np.array([1, 5, 2]),
        classes=CLASSES,
        videos=tmp_path,
        columns={},
    )
    averager = ViewAverager(3, 1, len(CLASSES))
    averager.add(0, 0, torch.tensor([[0.1, 0.6, 0.1, 0.1, 0.06, 0.04]]), 1)
    averager.add(1, 0, torch.tensor([[0.1, 0.25, 0.3, 0.15, 0.15, 0.05]]), 5)
    averager.fail(2, 2, "no such file")
    path = tmp_path / "predictions.csv"
    write_predictions(path, manifest, averager.result(), {2: "no such file"})
    right, wrong, failed = read_predictions(path)
    assert right == Prediction(
        path="1, 2.mp4",
        label="a|b",
        prediction="a|b",
        probability=0.6,
        correct=True,
        correct5=True,
        true_probability=0.6,
        failed="",
    )
    assert (wrong.label, wrong.prediction) == ("grow", 'he said "no", twice')
    assert (wrong.correct, wrong.correct5) == (False, False)
    assert wrong.true_probability == 0.05
    assert failed == Prediction("gone.mp4", CLASSES[2], "", 0.0, False, False, None, "no such file")


def test_the_surest_of_each_class_come_before_a_second_of_any() -> None:
    told = [("a", 0.9), ("a", 0.99), ("a", 0.95), ("b", 0.7), ("c", 0.8)]
    answers = [
        Prediction(f"{place}.mp4", label, label, prob, True, True, prob, "")
        for place, (label, prob) in enumerate(told)
    ]

    def paths(number: int) -> list[str]:
        return [answer.path for answer in surest(answers, number, correct=True)]

    assert paths(3) == ["1.mp4", "4.mp4", "3.mp4"]  # a, c, b: the surest of each
    assert paths(4) == ["1.mp4", "2.mp4", "4.mp4", "3.mp4"]  # and the next of a
    assert paths(9) == ["1.mp4", "2.mp4", "0.mp4", "4.mp4", "3.mp4"]
    assert surest(answers, 3, correct=False) == []
