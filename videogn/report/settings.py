"""Runs that belong together: of one setting but for the seed, and of one data set."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from videogn.config import scientific
from videogn.report.predictions import videos_of
from videogn.report.records import Run

# Where the data lie and which of several equal runs this is does not change the experiment.
NOT_COMPARED = frozenset({"name", "seed", "data.root", "data.videos"})


@dataclass(frozen=True)
class Spread:
    """Mean and standard deviation of a number over seeds.

    Attributes:
        mean: of the number.
        deviation: of the sample (n - 1); NaN for one seed.
        seeds: n.
    """

    mean: float
    deviation: float
    seeds: int

    def __str__(self) -> str:
        spread = "" if math.isnan(self.deviation) else f" ± {self.deviation:.1f}"
        return f"{self.mean:.1f}{spread}"


@dataclass(frozen=True)
class Group:
    """The runs on one data set.

    Attributes:
        title: the name of its folder.
        runs: trainings and tests on it.
    """

    title: str
    runs: list[Run]


def spread(values: Sequence[float]) -> Spread:
    """Returns mean and deviation of at least one number."""
    deviation = statistics.stdev(values) if len(values) > 1 else math.nan
    return Spread(statistics.fmean(values), deviation, len(values))


def difference(after: Spread, before: Spread) -> Spread:
    """Returns the change of a mean, with the deviation of the difference of two seeds, one of each.

    NaN where either is of one seed; `seeds` is the smaller number.
    """
    deviation = math.hypot(after.deviation, before.deviation)
    return Spread(after.mean - before.mean, deviation, min(after.seeds, before.seeds))


def result(runs: Sequence[Run], key: str) -> Spread | None:
    """Returns `top1` or `top5` of the tested ones among `runs`, None without any."""
    values = [float(run.test[key]) for run in runs if run.test]
    return spread(values) if values else None


def one_per_seed(runs: Iterable[Run]) -> list[Run]:
    """Returns the newest run of each seed: the last of it, for runs in the order of their ends."""
    return list({run.config.get("seed"): run for run in runs}.values())


def compared_values(config: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what makes a configuration another experiment."""
    values = scientific(dict(config))
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


def by_setting(runs: Iterable[Run]) -> list[list[Run]]:
    """Returns the trainings in lists of equal settings, one run a seed."""
    settings: dict[str, list[Run]] = {}
    for run in runs:
        if run.is_training:
            key = json.dumps(compared_values(run.config), sort_keys=True, default=str)
            settings.setdefault(key, []).append(run)
    return [one_per_seed(equal) for equal in settings.values()]


def by_data_set(runs: Iterable[Run]) -> list[Group]:
    """Returns the runs by data set: those tested on the same videos, wherever these lay.

    A run without predictions is taken to one whose `data.root` is the same.
    """
    runs = list(runs)
    lists = {run.name: videos_of(run.predictions) for run in runs if run.predictions}
    of_root = {
        str(run.config.get("data.root")): lists[run.name] for run in runs if run.name in lists
    }
    groups: dict[Any, Group] = {}
    for run in runs:
        root = str(run.config.get("data.root") or "unknown data set")
        key = lists.get(run.name) or of_root.get(root) or root
        groups.setdefault(key, Group(PurePath(root).name or root, [])).runs.append(run)
    return list(groups.values())


def differing_values(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Returns key -> its value in each run, for the keys in which the runs differ.

    Where the run wrote and how it was tracked are left out.
    """
    keys = {key: None for run in runs for key in scientific(dict(run.config)) if key != "name"}
    values = {key: [_shown(run.config.get(key)) for run in runs] for key in keys}
    return {key: told for key, told in values.items() if len(set(told)) > 1}


def _shown(value: Any) -> str:
    return "" if value is None else str(value)
