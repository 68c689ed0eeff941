"""Whether a network is right as often as it says: reliability diagram and calibration errors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from videogn.report.predictions import Prediction

BINS = 15
_DRAWS = 200
_LEAST = 1e-6  # predictions.csv has six decimals: a smaller probability is written as 0


@dataclass(frozen=True)
class Bin:
    """Answers of about the same probability.

    Attributes:
        low: lowest probability that belongs to it.
        high: highest.
        videos: number of answers, at least 1.
        confidence: their mean probability.
        accuracy: share of them that is right.
    """

    low: float
    high: float
    videos: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Calibration:
    """How the probabilities of the top class compare with how often it is right.

    Videos that could not be read have no probability and are left out.

    Attributes:
        videos: with an answer.
        confidence: mean probability of the top class.
        accuracy: share of right answers.
        ece_width: expected calibration error over bins of equal width: the mean distance of
            accuracy and confidence, weighted by videos (arXiv:1706.04599).
        ece_mass: the same over bins of as many videos each.
        chance_width: the `ece_width` to expect if every probability were exact: so few videos are
            by chance more or less often right than that, and ECE counts distances. The mean of 200
            draws.
        chance_mass: the `ece_mass` to expect.
        brier_top: mean squared distance of the top probability and rightness (0 or 1).
        nll: mean negative logarithm of the label's probability, which counts as at least 1e-6;
            None where the test does not tell it.
        width_bins: those of equal width that have videos.
        mass_bins: those of equal mass.
    """

    videos: int
    confidence: float
    accuracy: float
    ece_width: float
    ece_mass: float
    chance_width: float
    chance_mass: float
    brier_top: float
    nll: float | None
    width_bins: list[Bin]
    mass_bins: list[Bin]


def calibration(predictions: Sequence[Prediction], bins: int = BINS) -> Calibration | None:
    """Returns the calibration of a test; None if no video has an answer.

    Args:
        predictions: of the test.
        bins: at most so many.
    """
    answered = [p for p in predictions if not p.failed]
    if not answered:
        return None
    probs = np.array([p.probability for p in answered])
    right = np.array([p.correct for p in answered], float)
    width, mass = _equal_width(probs, right, bins), _equal_mass(probs, right, bins)
    of_label = [p.true_probability for p in answered if p.true_probability is not None]
    told = len(of_label) == len(answered)
    return Calibration(
        videos=len(answered),
        confidence=float(probs.mean()),
        accuracy=float(right.mean()),
        ece_width=_ece(width),
        ece_mass=_ece(mass),
        chance_width=_ece_by_chance(_equal_width, probs, bins),
        chance_mass=_ece_by_chance(_equal_mass, probs, bins),
        brier_top=float(((probs - right) ** 2).mean()),
        nll=float(-np.log(np.maximum(of_label, _LEAST)).mean()) if told else None,
        width_bins=width,
        mass_bins=mass,
    )


def _equal_width(probs: np.ndarray, right: np.ndarray, bins: int) -> list[Bin]:
    """Returns the bins (0, 1/bins], (1/bins, 2/bins], ... that are not empty."""
    places = np.clip(np.ceil(probs * bins).astype(int) - 1, 0, bins - 1)
    return [
        _bin(probs[places == place], right[places == place], (place / bins, (place + 1) / bins))
        for place in np.unique(places).tolist()
    ]


def _equal_mass(probs: np.ndarray, right: np.ndarray, bins: int) -> list[Bin]:
    """Returns bins of as many answers, but for one, from the least to the most probable."""
    order = np.argsort(probs, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    return [
        _bin(probs[part], right[part], (float(probs[part[0]]), float(probs[part[-1]])))
        for part in parts
    ]


def _bin(probs: np.ndarray, right: np.ndarray, ends: tuple[float, float]) -> Bin:
    return Bin(*ends, len(probs), float(probs.mean()), float(right.mean()))


def _ece(bins: Sequence[Bin]) -> float:
    videos = sum(each.videos for each in bins)
    return sum(each.videos * abs(each.accuracy - each.confidence) for each in bins) / videos


def _ece_by_chance(
    binned: Callable[[np.ndarray, np.ndarray, int], list[Bin]], probs: np.ndarray, bins: int
) -> float:
    """Returns the mean ECE of answers that are right as often as they say."""
    rng = np.random.default_rng(0)
    draws = (rng.random(len(probs)) < probs for _ in range(_DRAWS))
    return sum(_ece(binned(probs, right.astype(float), bins)) for right in draws) / _DRAWS
