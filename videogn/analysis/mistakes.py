"""Which classes a test got right and what it took the others for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from videogn.report.predictions import Prediction


@dataclass(frozen=True)
class ClassScore:
    """What a test made of the videos of one class.

    Attributes:
        label: the class.
        videos: of it, those that could not be read included.
        top1: percent of them that were right.
        top5: percent whose class was among the five most probable.
        failed: videos that could not be read; they count as wrong.
        mistaken_for: the most common wrong answer, empty without any; of equals, the first by name.
        mistakes: videos that got that answer.
    """

    label: str
    videos: int
    top1: float
    top5: float
    failed: int
    mistaken_for: str
    mistakes: int


@dataclass(frozen=True)
class Pair:
    """Videos of the class `label` that were taken for `prediction`: `videos` of `of`."""

    label: str
    prediction: str
    videos: int
    of: int


def class_scores(predictions: Sequence[Prediction]) -> list[ClassScore]:
    """Returns the score of each class that has videos, the lowest top-1 first."""
    by_label: dict[str, list[Prediction]] = {}
    for prediction in predictions:
        by_label.setdefault(prediction.label, []).append(prediction)
    scores = [_score(label, group) for label, group in by_label.items()]
    return sorted(scores, key=lambda score: (score.top1, score.label))


def confused_pairs(predictions: Sequence[Prediction]) -> list[Pair]:
    """Returns every pair of a class and a wrong answer for it, the most frequent first."""
    videos = Counter(p.label for p in predictions)
    wrong = Counter((p.label, p.prediction) for p in predictions if p.prediction and not p.correct)
    pairs = [Pair(*names, number, videos[names[0]]) for names, number in wrong.items()]
    return sorted(pairs, key=lambda pair: (-pair.videos, pair.label, pair.prediction))


def confusion_matrix(predictions: Sequence[Prediction]) -> tuple[list[str], list[list[int]]]:
    """Returns class names and, for each as the label, how many videos were taken for each.

    A last column counts the videos that could not be read. The classes are those that occur.
    """
    names = sorted({name for p in predictions for name in (p.label, p.prediction) if name})
    places = {name: place for place, name in enumerate(names)}
    counts = [[0] * (len(names) + 1) for _ in names]
    for p in predictions:
        counts[places[p.label]][places.get(p.prediction, len(names))] += 1
    return names, counts


def _score(label: str, group: Sequence[Prediction]) -> ClassScore:
    wrong = Counter(p.prediction for p in group if p.prediction and not p.correct)
    name, mistakes = min(wrong.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
    return ClassScore(
        label=label,
        videos=len(group),
        top1=100 * sum(p.correct for p in group) / len(group),
        top5=100 * sum(p.correct5 for p in group) / len(group),
        failed=sum(bool(p.failed) for p in group),
        mistaken_for=name,
        mistakes=mistakes,
    )
