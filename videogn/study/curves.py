"""Validation error over epochs, of the trials that are as usual but for norm, batch and length."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from videogn.study.plan import Trial
from videogn.study.records import Done, Spread, by_setting, spread_of

CSV_HEADER = ("norm", "batch", "frames", "epoch", "val_error", "val_error_sd", "seeds")


@dataclass(frozen=True)
class Curve:
    """The seeds of one setting together.

    Attributes:
        setting: norm, batch, length and rate.
        points: epoch, and the error there in percent.
    """

    setting: Trial
    points: Sequence[tuple[float, Spread]]


def usual(done: Iterable[Done]) -> list[Done]:
    """Returns the trials that differ in norm, batch, length, seed and rate at most."""
    plain = Trial("", 0, 0, 0)
    return [
        each
        for each in done
        if replace(each.trial, norm="", batch=0, frames=0, seed=0, rate=None) == plain
    ]


def curves_of(done: Iterable[Done]) -> list[Curve]:
    """Returns a curve for each setting; a seed that diverged is in none."""
    found = []
    for setting, group in by_setting(usual(done)).items():
        curves = [each.result["curve"] for each in group if "diverged" not in each.result]
        points = [
            (at[0][0], spread_of([error for _, error in at])) for at in zip(*curves, strict=True)
        ]
        if points:
            found.append(Curve(setting, points))
    return found


def curves_csv(curves: Iterable[Curve]) -> str:
    """Returns the curves as CSV, a line a point."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_HEADER)
    for curve in curves:
        of = curve.setting
        for epoch, error in curve.points:
            values = (error.mean, error.deviation, error.seeds)
            writer.writerow([of.norm, of.batch, of.frames, epoch, *values])
    return text.getvalue()
