"""Two tests of the same videos: by how much they differ, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from statistics import NormalDist

import numpy as np

from videogn.errors import DataError
from videogn.report.predictions import Prediction, class_accuracy, read_predictions, videos_of

_Z = NormalDist().inv_cdf(0.975)
_RESAMPLES = 10_000
_SEED = 0  # the same two files give the same interval


@dataclass(frozen=True)
class Paired:
    """A paired difference of two accuracies over the same videos.

    Attributes:
        a: accuracy of the first test, percent.
        b: of the second.
        difference: b - a, points.
        low: end of its 95 % interval, for other videos of the same kind; see `paired_interval`.
        high: the other end.
        bootstrap_low: end of its 95 % bootstrap interval, too narrow where few videos differ; see
            `bootstrap_interval`.
        bootstrap_high: the other end.
        only_a: videos that only the first got right.
        only_b: that only the second did.
        p: of McNemar's exact test, two-sided: how likely so unequal a share of the videos that
            only one got right is between tests of equal accuracy.
    """

    a: float
    b: float
    difference: float
    low: float
    high: float
    bootstrap_low: float
    bootstrap_high: float
    only_a: int
    only_b: int
    p: float


@dataclass(frozen=True)
class ClassChange:
    """The accuracy of one class in two tests, percent of its `videos`."""

    label: str
    videos: int
    a: float
    b: float

    @property
    def change(self) -> float:
        """b - a, points."""
        return self.b - self.a


@dataclass(frozen=True)
class Comparison:
    """What two tests of the same videos say.

    Attributes:
        videos: number of them.
        failed_a: those that the first could not read, which count as wrong.
        failed_b: those that the second could not.
        top1: the difference in top-1.
        top5: in top-5.
        classes: the largest change first.
        only_a: paths of the videos that only the first got right.
        only_b: that only the second did.
    """

    videos: int
    failed_a: int
    failed_b: int
    top1: Paired
    top5: Paired
    classes: list[ClassChange]
    only_a: list[str]
    only_b: list[str]


def load_test(place: Path) -> list[Prediction]:
    """Returns the predictions of a run, of the folder of a test, or of a `predictions.csv`.

    Raises:
        DataError: there are none.
    """
    path = place / "predictions.csv" if place.is_dir() else place
    if not path.is_file():
        raise DataError(f"{place}: holds no predictions.csv; name a tested run or such a file")
    return read_predictions(path)


def compare(first: Sequence[Prediction], second: Sequence[Prediction]) -> Comparison:
    """Returns how the second test differs from the first.

    Raises:
        DataError: they are not of the same videos with the same labels.
    """
    _require_same_videos(first, second)
    # By label too: a list may have a video twice, with two labels.
    a, b = (sorted(test, key=lambda p: (p.path, p.label)) for test in (first, second))
    pairs = list(zip(a, b, strict=True))
    return Comparison(
        videos=len(pairs),
        failed_a=sum(bool(p.failed) for p in a),
        failed_b=sum(bool(p.failed) for p in b),
        top1=paired([p.correct for p in a], [q.correct for q in b]),
        top5=paired([p.correct5 for p in a], [q.correct5 for q in b]),
        classes=_class_changes(a, b),
        only_a=[p.path for p, q in pairs if p.correct and not q.correct],
        only_b=[p.path for p, q in pairs if q.correct and not p.correct],
    )


def paired(a: Sequence[bool], b: Sequence[bool]) -> Paired:
    """Returns the difference between two tests, from whether each video was right in each."""
    number = len(a)
    only_a = sum(x and not y for x, y in zip(a, b, strict=True))
    only_b = sum(y and not x for x, y in zip(a, b, strict=True))
    low, high = paired_interval(only_a, only_b, number)
    bootstrap_low, bootstrap_high = bootstrap_interval(only_a, only_b, number)
    return Paired(
        a=100 * sum(a) / number,
        b=100 * sum(b) / number,
        difference=100 * (only_b - only_a) / number,
        low=low,
        high=high,
        bootstrap_low=bootstrap_low,
        bootstrap_high=bootstrap_high,
        only_a=only_a,
        only_b=only_b,
        p=mcnemar(only_a, only_b),
    )


def paired_interval(only_a: int, only_b: int, number: int) -> tuple[float, float]:
    """Returns the 95 % interval of the difference b - a of `number` videos, in points.

    The adjusted Wald interval of paired proportions (Bonett & Price 2012): the normal one, with one
    more video that only the first got right and one more that only the second did. Resampling the
    videos is as good where many differ, but closes to nothing where none does: of 96 videos, 2 % of
    which only the second gets right, its intervals held the true difference in 84 of 100 tests.
    """
    of_a, of_b = (only_a + 1) / (number + 2), (only_b + 1) / (number + 2)
    middle = of_b - of_a
    half = _Z * sqrt((of_a + of_b - middle**2) / (number + 2))
    return 100 * max(middle - half, -1.0), 100 * min(middle + half, 1.0)


def bootstrap_interval(only_a: int, only_b: int, number: int) -> tuple[float, float]:
    """Returns the 95 % percentile interval of the difference over resampled videos, in points.

    A resample draws as many videos, with replacement. All that counts of it is how many of them
    only one test got right, so the counts are drawn, which is the same and needs no loop.
    """
    shares = np.array([only_a, only_b, number - only_a - only_b]) / number
    drawn = np.random.default_rng(_SEED).multinomial(number, shares, size=_RESAMPLES)
    low, high = np.percentile(100 * (drawn[:, 1] - drawn[:, 0]) / number, [2.5, 97.5])
    return float(low), float(high)


def mcnemar(only_a: int, only_b: int) -> float:
    """Returns the two-sided p of McNemar's exact test: a fair coin for each unequal video."""
    number = only_a + only_b
    term = tail = 1  # binomial coefficients as whole numbers: no rounding for any count
    for k in range(1, min(only_a, only_b) + 1):
        term = term * (number - k + 1) // k
        tail += term
    return min(1.0, 2 * tail / 2**number)


def _class_changes(a: Sequence[Prediction], b: Sequence[Prediction]) -> list[ClassChange]:
    of_a, of_b = class_accuracy(a), class_accuracy(b)
    found = [
        ClassChange(label, number, 100 * right / number, 100 * of_b[label][1] / number)
        for label, (number, right) in of_a.items()
    ]
    return sorted(found, key=lambda c: (-abs(c.change), c.label))


def _require_same_videos(first: Sequence[Prediction], second: Sequence[Prediction]) -> None:
    videos, others = videos_of(first), videos_of(second)
    if not videos:
        raise DataError("the first test is of no videos; run it again")
    if videos == others:
        return
    labels = dict(others)
    for path, label in videos:
        if labels.get(path, label) != label:
            raise DataError(
                f"the two tests differ in the label of {path!r}: {label!r} and {labels[path]!r}; "
                "test both on the same list"
            )
    odd = sorted(set(videos) ^ set(others))
    shown = f"; only one has {odd[0][0]!r}" if odd else ""
    raise DataError(
        f"the two tests are not of the same videos: {len(videos)} and {len(others)} of them"
        f"{shown}; test both on the same list"
    )
