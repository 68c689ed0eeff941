"""What a test said of each video: `predictions.csv` read back, and counted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from videogn.data.tables import Row, read_table
from videogn.errors import DataError

_COLUMNS = ("path", "label", "prediction", "probability", "correct", "top5", "failed")


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a test said of one video.

    Attributes:
        path: of the video, as its list writes it.
        label: its class.
        prediction: the most probable class, empty for a video that could not be read.
        probability: of that class.
        correct: whether it is the label.
        correct5: whether the label is among the five most probable classes.
        true_probability: of the label; None in files that do not tell.
        failed: why the video could not be read, empty otherwise.
    """

    path: str
    label: str
    prediction: str
    probability: float
    correct: bool
    correct5: bool
    true_probability: float | None
    failed: str


def read_predictions(path: Path) -> list[Prediction]:
    """Returns the rows of a `predictions.csv`, in their order.

    Raises:
        DataError: it cannot be read, or a row of it says nothing usable.
    """
    return [_prediction(row) for row in read_table(path, _COLUMNS)]


def videos_of(predictions: Iterable[Prediction]) -> tuple[tuple[str, str], ...]:
    """Returns the (path, label) of every video, sorted: equal for tests of the same videos."""
    return tuple(sorted((p.path, p.label) for p in predictions))


def class_names(predictions: Iterable[Prediction]) -> set[str]:
    """Returns the classes that occur, as label or as prediction."""
    return {name for p in predictions for name in (p.label, p.prediction) if name}


def class_accuracy(predictions: Iterable[Prediction]) -> dict[str, tuple[int, int]]:
    """Returns label -> (videos, right ones); a video that could not be read is not right."""
    rows = list(predictions)
    videos = Counter(p.label for p in rows)
    right = Counter(p.label for p in rows if p.correct)
    return {label: (number, right[label]) for label, number in videos.items()}


def confusion(
    predictions: Iterable[Prediction], ids: Mapping[str, int]
) -> list[tuple[int, int, int]]:
    """Returns (label, prediction, videos) for every pair that occurs, sorted.

    Args:
        predictions: of one test.
        ids: of the classes; a video that could not be read is predicted as -1.
    """
    pairs = Counter((ids[p.label], ids[p.prediction] if p.prediction else -1) for p in predictions)
    return [(label, predicted, number) for (label, predicted), number in sorted(pairs.items())]


def surest(predictions: Sequence[Prediction], number: int, *, correct: bool) -> list[Prediction]:
    """Returns the `number` videos that were right (or wrong) with the highest probability."""
    found = [p for p in predictions if p.correct == correct and not p.failed]
    return sorted(found, key=lambda p: (-p.probability, p.path))[:number]


def _prediction(row: Row) -> Prediction:
    fields = row.fields
    label, names = fields["label"], fields["top5"].split("|")
    told = fields.get("true_probability", "")
    return Prediction(
        path=fields["path"],
        label=label,
        prediction=fields["prediction"],
        probability=_number(row, "probability") if fields["prediction"] else 0.0,
        correct=_flag(row, "correct"),
        correct5=_flag(row, "correct5") if "correct5" in fields else label in names,
        true_probability=_number(row, "true_probability") if told else None,
        failed=fields["failed"],
    )


def _number(row: Row, column: str) -> float:
    text = row.fields[column]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{row.place}: {column} is {text!r}, no number; run the test again")
    return value


def _flag(row: Row, column: str) -> bool:
    text = row.fields[column]
    if text not in ("0", "1"):
        raise DataError(f"{row.place}: {column} is {text!r}, not 0 or 1; run the test again")
    return text == "1"
