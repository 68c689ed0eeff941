"""From paths to answers: reading goes on in a thread while the network scores what has come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from videogn.data.pyav_reader import PyAVReader
from videogn.errors import VideoDecodeError
from videogn.predict.views import Piece, View

T = TypeVar("T")
Cut = Callable[[PyAVReader], Iterator[Piece]]


class Scores(NamedTuple):
    """What the network says of views.

    Attributes:
        probs: float32 (N, K).
        features: float32 (N, C), which its classifier turns into logits.
    """

    probs: Tensor
    features: Tensor


Score = Callable[[Tensor], Scores]


@dataclass
class Span:
    """The answer for a stretch of a video.

    Attributes:
        start, end: seconds after the first frame.
        num_views: that belong to it.
        scored: one (probabilities, features) for each view scored.
    """

    start: float
    end: float
    num_views: int
    scored: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def probs(self) -> Tensor:
        """Probabilities averaged over views: float64 (K,)."""
        return torch.stack([probs for probs, _ in self.scored]).double().mean(0)

    @property
    def features(self) -> Tensor:
        """What the classifier sees of each view: float32 (V, C)."""
        return torch.stack([features for _, features in self.scored])


@dataclass
class Answer:
    """What was found of one video.

    Attributes:
        path: as it was given.
        spans: one for the whole video, or one for each window.
        error: why it could not be read (to its end); the spans before it are right.
    """

    path: str
    spans: list[Span] = field(default_factory=list)
    error: VideoDecodeError | None = None
    is_read: bool = False

    def is_whole(self) -> bool:
        """Whether every view of it has been scored."""
        return self.is_read and all(len(span.scored) == span.num_views for span in self.spans)


def answers(
    paths: Iterable[str], cut: Cut, score: Score, *, most: Callable[[View], int]
) -> Iterator[Answer]:
    """Yields an answer for each path, in order; batches go across videos of one size.

    Args:
        paths: video files.
        cut: what of an open video is scored.
        score: uint8 views (N, T, H, W, 3) -> scores.
        most: how many views like this one are scored together.
    """
    batch = _Batch(score, most)
    waiting: deque[Answer] = deque()
    for path, found in _ahead(_pieces(paths, cut)):
        if not waiting or waiting[-1].is_read:
            waiting.append(Answer(path))
        answer = waiting[-1]
        if isinstance(found, Piece):
            span = Span(found.start, found.end, len(found.views))
            answer.spans.append(span)
            for view in found.views:
                batch.add(view, span)
        else:
            answer.error, answer.is_read = found, True
        while waiting and waiting[0].is_whole():
            yield waiting.popleft()
    batch.flush()
    yield from waiting


def _pieces(
    paths: Iterable[str], cut: Cut
) -> Iterator[tuple[str, Piece | VideoDecodeError | None]]:
    """Yields the pieces of each video, then its error, or None for its end."""
    for path in paths:
        error = None
        try:
            with PyAVReader(path) as video:
                for piece in cut(video):
                    yield path, piece
        except VideoDecodeError as problem:
            error = problem
        yield path, error


def _ahead(items: Iterator[T]) -> Iterator[T]:
    """Yields `items`, of which a thread makes the next while the present one is used."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(next, items, end)
        while (item := future.result()) is not end:
            future = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


class _Batch:
    """Views of one shape that wait to be scored together."""

    def __init__(self, score: Score, most: Callable[[View], int]) -> None:
        self._score, self._most = score, most
        self._waiting: list[tuple[View, Span]] = []

    def add(self, view: View, span: Span) -> None:
        """Takes a view; scores those that wait if there are enough, or this one is no match."""
        if self._waiting and self._waiting[0][0].shape != view.shape:
            self.flush()
        self._waiting.append((view, span))
        if len(self._waiting) >= self._most(view):
            self.flush()

    def flush(self) -> None:
        """Scores what waits."""
        if not self._waiting:
            return
        scores = self._score(torch.stack([view.cut() for view, _ in self._waiting]))
        for (_, span), probs, features in zip(
            self._waiting, scores.probs.cpu(), scores.features.cpu(), strict=True
        ):
            span.scored.append((probs, features))
        self._waiting.clear()
