"""What a test said of each video: `predictions.csv` written, read back, and counted."""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from videogn.data.tables import Row, read_table
from videogn.engine.durable import replacing
from videogn.errors import DataError

if TYPE_CHECKING:  # comparing two tests does not wait for torch
    from videogn.data.manifest import Manifest
    from videogn.engine.evaluate import EvalResult

# Of all versions; the later columns say what names alone cannot: one may hold the "|" of `top5`.
_COLUMNS = ("path", "label", "prediction", "probability", "correct", "top5", "failed")
COLUMNS = (*_COLUMNS, "true_probability", "correct5", "top5_probabilities")


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


def write_predictions(
    path: Path, manifest: Manifest, result: EvalResult, failed: Mapping[int, str]
) -> None:
    """Writes one row a video: what it is, what it was taken for, how surely, and the top 5.

    Args:
        path: of the file, written whole or not at all.
        manifest: the videos of the test.
        result: of the test.
        failed: row of a video that could not be read -> why.
    """
    top = result.probs.topk(min(5, result.probs.shape[1]), dim=1)
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(COLUMNS)
    for row, video in enumerate(manifest.paths):
        label_id = int(manifest.labels[row])
        label = manifest.classes[label_id]
        if row in failed:
            writer.writerow([video, label, "", "", 0, "", failed[row], "", 0, ""])
            continue
        ids = top.indices[row].tolist()
        names = [manifest.classes[i] for i in ids]
        probs = [f"{prob:.6f}" for prob in top.values[row].tolist()]
        correct = int(result.correct[row])
        told = [video, label, names[0], probs[0], correct, "|".join(names), ""]
        true_prob = f"{float(result.probs[row, label_id]):.6f}"
        writer.writerow([*told, true_prob, int(label_id in ids), "|".join(probs)])
    with replacing(path) as file:
        file.write(table.getvalue().encode())


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
    """Returns `number` videos that were right (or wrong) with a high probability, falling.

    The surest of each class come before a second one of any: six of one class tell little.
    """
    found = [p for p in predictions if p.correct == correct and not p.failed]
    found.sort(key=lambda p: (-p.probability, p.path))
    seen: Counter[str] = Counter()
    turns: list[tuple[int, int]] = []
    for place, each in enumerate(found):
        turns.append((seen[each.label], place))
        seen[each.label] += 1
    return [found[place] for place in sorted(place for _, place in sorted(turns)[:number])]


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
