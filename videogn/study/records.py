"""The lines of a study's record, and what is read out of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from math import isnan, nan
from statistics import mean, stdev
from typing import Any

from videogn.study.plan import Study, Trial


@dataclass(frozen=True)
class Done:
    """One line: a trial and what it reached, see `run_trial`."""

    trial: Trial
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Spread:
    """Several seeds of one setting: mean and sample standard deviation, how many, how many broke.

    The mean is None without a seed, the deviation with fewer than two.
    """

    mean: float | None
    deviation: float | None
    seeds: int
    diverged: int = 0

    def __str__(self) -> str:
        """As a table shows it."""
        if self.mean is None:
            return "diverged" if self.diverged else ""
        text = f"{self.mean:.1f}"
        if self.deviation is not None:
            text += f" ± {self.deviation:.1f}"
        return f"{text} ({self.diverged} diverged)" if self.diverged else text


def as_record(done: Done) -> dict[str, Any]:
    """Returns the line."""
    return {"trial": asdict(done.trial), **done.result}


def from_record(record: Mapping[str, Any]) -> Done:
    """Returns what a line says."""
    result = dict(record)
    return Done(Trial(**result.pop("trial")), result)


def choose_rates(done: Iterable[Done], study: Study) -> dict[str, float]:
    """Returns the rate of each norm whose trials in `study.rates` are done.

    The highest mean accuracy on the validation clips wins, the lower rate of two that are equal;
    a rate with a diverged trial does not. A norm that diverged at all of them has none.
    """
    by_trial = {each.trial: each.result for each in done}
    found: dict[str, dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    pending = set()
    for trial in study.rates:
        assert trial.rate is not None
        if trial not in by_trial:
            pending.add(trial.norm)
            continue
        found[trial.norm][trial.rate].append(by_trial[trial].get("val", nan))
    chosen = {}
    for norm in found.keys() - pending:
        usable = {rate: mean(vals) for rate, vals in found[norm].items() if not isnan(mean(vals))}
        if usable:
            chosen[norm] = max(sorted(usable), key=lambda rate: usable[rate])
    return chosen


def with_rates(trials: Iterable[Trial], rates: Mapping[str, float]) -> list[Trial]:
    """Returns the trials, the chosen rate in the place of none; without those of other norms."""
    return [
        trial if trial.rate is not None else replace(trial, rate=rates[trial.norm])
        for trial in trials
        if trial.rate is not None or trial.norm in rates
    ]


def by_setting(done: Iterable[Done]) -> dict[Trial, list[Done]]:
    """Returns the trials that differ in their seed alone together, under the one with seed 0."""
    groups: dict[Trial, list[Done]] = defaultdict(list)
    for each in done:
        groups[replace(each.trial, seed=0)].append(each)
    return dict(groups)


def spread(group: Iterable[Done], key: str) -> Spread:
    """Returns what `key` of the results is over seeds."""
    results = [each.result for each in group]
    values = [result[key] for result in results if key in result]
    diverged = sum("diverged" in result for result in results)
    return spread_of(values, diverged)


def spread_of(values: list[float], diverged: int = 0) -> Spread:
    """Returns mean and sample standard deviation of `values`."""
    return Spread(
        mean(values) if values else None,
        stdev(values) if len(values) > 1 else None,
        len(values),
        diverged,
    )
