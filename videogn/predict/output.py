"""Answers as text, JSON, csv and arrays."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from itertools import groupby, pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from videogn.predict.answers import Answer, Span
from videogn.predict.classifier import Classifier

COLUMNS = ("video", "start", "end", "rank", "label", "probability")


def as_text(answer: Answer, classifier: Classifier, topk: int, *, sliding: bool) -> str:
    """Returns the answer for a reader: the best classes, or what happens when."""
    if sliding:
        return "\n".join([answer.path, *_timeline(answer.spans, classifier)])
    best = classifier.best(answer.spans[0].probs, topk)
    return "\n".join([answer.path, *(f"  {100 * p:5.1f} %  {label}" for label, p in best)])


def _timeline(spans: Sequence[Span], classifier: Classifier) -> list[str]:
    """Returns a line for each run of windows of one best class, with its mean probability."""
    best = [classifier.best(span.probs, 1)[0] for span in spans]
    lines = []
    for label, group in groupby(zip(best, _parts(spans), strict=True), key=lambda x: x[0][0]):
        run = list(group)
        mean = sum(probability for (_, probability), _ in run) / len(run)
        start, end = clock(run[0][1][0]), clock(run[-1][1][1])
        lines.append(f"  {start} - {end}  {100 * mean:5.1f} %  {label}")
    return lines


def _parts(spans: Sequence[Span]) -> list[list[float]]:
    """Returns [start, end] of what each span is told for: where two overlap, each has a half.

    ```
    seen   |----a----|         told   |--a---|
              |----b----|                    |-b-|
                 |----c----|                     |--c---|
    ```
    So that each moment is told once, by the window in whose middle it lies nearest.
    """
    parts = [[span.start, span.end] for span in spans]
    for before, after in pairwise(parts):
        if after[0] < before[1]:
            before[1] = after[0] = (after[0] + before[1]) / 2
    return parts


def clock(seconds: float) -> str:
    """Returns a time as 1:02.5 or 1:00:02.5."""
    tenths = round(seconds * 10)
    minutes, rest = divmod(tenths, 600)
    hours, minutes = divmod(minutes, 60)
    front = f"{hours}:{minutes:02d}" if hours else f"{minutes}"
    return f"{front}:{rest / 10:04.1f}"


def as_json(answer: Answer, classifier: Classifier, topk: int, *, sliding: bool) -> str:
    """Returns the answer as one JSON object in a line."""

    def best(span: Span) -> list[dict[str, Any]]:
        found = classifier.best(span.probs, topk)
        return [{"label": label, "probability": p} for label, p in found]

    if not sliding:
        return json.dumps({"video": answer.path, "predictions": best(answer.spans[0])})
    found = [
        {"start": span.start, "end": span.end, "predictions": best(span)} for span in answer.spans
    ]
    return json.dumps({"video": answer.path, "windows": found})


class CsvWriter:
    """Writes a row for each of the best classes of each span; whole after every video."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", newline="", encoding="utf-8")
        self._rows = csv.writer(self._file)
        self._rows.writerow(COLUMNS)

    def add(self, answer: Answer, classifier: Classifier, topk: int) -> None:
        """Writes the rows of a video."""
        for span in answer.spans:
            for rank, (label, p) in enumerate(classifier.best(span.probs, topk), 1):
                times = f"{span.start:.3f}", f"{span.end:.3f}"
                self._rows.writerow([answer.path, *times, rank, label, f"{p:.6f}"])
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self._file.close()


class FeatureWriter:
    """Gathers features and writes them as a `.npz` file, also when the work is interrupted.

    For S spans of all videos together, V views each at most, C features and K classes:

        features   float32 (S, V, C)   the last layer's input; NaN where a span has fewer views
        probs      float64 (S, K)
        video      text (S,)           the path
        start, end float64 (S,)        seconds
        classes    text (K,)
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self._path, self._classes = path, classes
        self._spans: list[tuple[str, Span]] = []
        path.touch()  # a place that cannot be written is told before the work

    def add(self, answer: Answer) -> None:
        """Takes the spans of a video."""
        self._spans += [(answer.path, span) for span in answer.spans]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        spans = [span for _, span in self._spans]
        views = max((span.num_views for span in spans), default=0)
        rows = [_padded(span.features.numpy(), views) for span in spans]
        temporary = self._path.with_name(f".{self._path.name}.part")
        with temporary.open("wb") as file:
            np.savez(
                file,
                features=np.stack(rows) if rows else np.empty((0, 0, 0), np.float32),
                probs=np.stack([span.probs.numpy() for span in spans])
                if spans
                else np.empty((0, 0)),
                video=np.array([path for path, _ in self._spans], dtype=str),
                start=np.array([span.start for span in spans]),
                end=np.array([span.end for span in spans]),
                classes=np.array(self._classes, dtype=str),
            )
        temporary.replace(self._path)


def _padded(features: np.ndarray, views: int) -> np.ndarray:
    missing = views - len(features)
    return np.pad(features, ((0, missing), (0, 0)), constant_values=np.nan)
