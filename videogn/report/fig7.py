"""The lines of Fig. 7: validation error over epochs, a panel a norm, a line a setting."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from videogn.report.records import Run
from videogn.report.settings import by_setting

Y_LABEL = "1-clip validation error, %"
# The paper's order; further norms follow.
_FIRST = ("BN", "GN")


@dataclass(frozen=True)
class Point:
    """A moment of a line: the epoch, and the mean, least and greatest error over seeds."""

    epoch: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Line:
    """One setting.

    Attributes:
        label: frames and clips, and whatever else tells it from others.
        style: a number that is the same for the same frames and clips in every panel.
        seeds: runs in it.
        points: in the order of the epochs.
    """

    label: str
    style: int
    seeds: int
    points: list[Point]


@dataclass(frozen=True)
class Panel:
    """The lines of one kind of normalization."""

    norm: str
    lines: list[Line]


def panels(runs: Sequence[Run]) -> list[Panel]:
    """Returns BN, GN, then the other norms, each with its settings, larger ones first.

    A setting of several seeds is their mean at the epochs which all of them have measured.
    """
    settings = [[run for run in equal if run.curve] for equal in by_setting(runs)]
    settings = sorted((equal for equal in settings if equal), key=_size, reverse=True)
    norms = {equal[0].norm for equal in settings}
    order = [n for n in _FIRST if n in norms] + sorted(norms - set(_FIRST))
    styles: dict[Any, int] = {}
    found = [
        Panel(norm, _lines([equal for equal in settings if equal[0].norm == norm], styles))
        for norm in order
    ]
    return [panel for panel in found if panel.lines]


def _lines(settings: Sequence[Sequence[Run]], styles: dict[Any, int]) -> list[Line]:
    """Returns the lines of a panel; `styles` keeps the number of each size and place in it."""
    seen: Counter[Any] = Counter()
    lines = []
    for label, equal in zip(_labels(settings), settings, strict=True):
        size = _size(equal)
        style = styles.setdefault((size, seen[size]), len(styles))
        seen[size] += 1
        points = _points(equal)
        if len(points) > 1:  # one point makes no line
            lines.append(Line(label, style, len(equal), points))
    return lines


def bounds(drawn: Sequence[Panel]) -> tuple[float, float, float]:
    """Returns (last epoch, least error, greatest error) of panels with at least one point."""
    points = [point for panel in drawn for line in panel.lines for point in line.points]
    low, high = min(p.low for p in points), max(p.high for p in points)
    return max(p.epoch for p in points), low, high


def _size(runs: Sequence[Run]) -> tuple[float, float]:
    """Returns frames and clips of a setting; 0 where the configuration does not tell."""
    values = [runs[0].config.get(key) for key in ("data.num_frames", "optim.clips_per_gpu")]
    frames, clips = (v if isinstance(v, int | float) else 0 for v in values)
    return frames, clips


def _labels(settings: Sequence[Sequence[Run]]) -> list[str]:
    """Returns frames and clips of each setting, with the run's name where these are not enough."""
    plain = []
    for runs in settings:
        frames, clips = _size(runs)
        plain.append(f"{frames:g} frames, {clips:g} clip{'s' if clips != 1 else ''}")
    count = Counter(plain)
    return [
        f"{label} ({runs[-1].name})" if count[label] > 1 else label
        for label, runs in zip(plain, settings, strict=True)
    ]


def _points(runs: Sequence[Run]) -> list[Point]:
    curves = [dict(run.curve) for run in runs]
    shared = sorted(set.intersection(*map(set, curves)))
    points = []
    for epoch in shared:
        errors = [curve[epoch] for curve in curves]
        points.append(Point(epoch, sum(errors) / len(errors), min(errors), max(errors)))
    return points
