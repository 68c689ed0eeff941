"""What the folders of runs and tests hold, read whatever state a crash or a hand left them in."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from videogn.config import flatten
from videogn.errors import DataError
from videogn.report.predictions import Prediction, read_predictions
from videogn.runs import read_config, read_json, read_records

# Any of these makes a folder one of ours; only training writes the first two.
_TRAINING_FILES = ("env.json", "metrics.jsonl")
_MARKS = (*_TRAINING_FILES, "test.json")
# Below a run there are tests of it, but nothing for a report in these.
_NOT_ENTERED = frozenset({"checkpoints", "wandb", "plots"})


@dataclass(frozen=True)
class Run:
    """What a folder says of a training, or of a test of a checkpoint.

    Attributes:
        folder: it.
        name: its path below the folder of runs.
        is_training: whether a training wrote it; a test of a checkpoint otherwise.
        config: resolved, by dotted key.
        test: contents of `test.json`; None before the test is finished.
        env: contents of `env.json`.
        records: of `metrics.jsonl`.
        predictions: of the test, empty where there are none.
        bad: path and reason of each training video that was replaced.
    """

    folder: Path
    name: str
    is_training: bool
    config: Mapping[str, Any]
    test: Mapping[str, Any] | None = None
    env: Mapping[str, Any] = field(default_factory=dict)
    records: tuple[Mapping[str, Any], ...] = ()
    predictions: tuple[Prediction, ...] = ()
    bad: tuple[tuple[str, str], ...] = ()

    @property
    def norm(self) -> str:
        """The kind of normalization, in capitals: "GN", "BN", ..., "?" when it is not told."""
        return str(self.config.get("model.norm.kind") or "?").upper()

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(epoch, 1-clip validation error in percent), in the order of the epochs."""
        points = []
        for record in self.records:
            epoch, error = record.get("epoch"), record.get("val/error_1clip_aug")
            if record.get("split") == "val" and is_number(epoch) and is_number(error):
                points.append((epoch, error))
        return sorted(points)


@dataclass(frozen=True)
class Found:
    """The runs under a folder, and what is wrong with some of them.

    Attributes:
        runs: with a readable configuration; those whose test ended first come first.
        problems: one line for each file or folder that cannot be used.
    """

    runs: list[Run]
    problems: list[str]


def find_runs(top: Path) -> Found:
    """Returns the runs and tests at any depth under the folder `top`.

    Raises:
        DataError: there is no such folder.
    """
    if not top.is_dir():
        raise DataError(f"{top} is not a folder of runs; train one, or run the demo")
    problems: list[str] = []
    runs = []
    for folder in _folders(top, problems):
        name = folder.relative_to(top).as_posix() if folder != top else folder.resolve().name
        run = _read_run(folder, name, problems)
        if run is not None:
            runs.append(run)
    return Found(sorted(runs, key=lambda run: (_age(run.folder), run.name)), problems)


def _folders(top: Path, problems: list[str]) -> Iterator[Path]:
    """Yields the folders of runs and tests, and notes those that cannot be listed."""

    def note(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be listed ({error.strerror})")

    for place, folders, files in os.walk(top, onerror=note):
        # A data root may lie among the runs, as the demo's does; its videos are no runs.
        is_data = "classes.txt" in files
        folders[:] = [] if is_data else sorted(set(folders) - _NOT_ENTERED)
        if not is_data and not set(_MARKS).isdisjoint(files):
            yield Path(place)


def _age(folder: Path) -> float:
    path = folder / "test.json"
    return path.stat().st_mtime if path.is_file() else math.inf


def _read_run(folder: Path, name: str, problems: list[str]) -> Run | None:
    """Returns what a folder holds, None without a configuration; says what is wrong with it."""
    config = read_config(folder)
    if config is None:
        problems.append(f"{name}: no readable config.yaml, so it is left out")
        return None
    test = read_json(folder / "test.json")
    if (folder / "test.json").is_file() and (test is None or not _is_whole(test)):
        problems.append(f"{name}: test.json is damaged, so the run counts as not tested")
        test = None
    return Run(
        folder=folder,
        name=name,
        is_training=any((folder / file).is_file() for file in _TRAINING_FILES),
        config=flatten(config),
        test=test,
        env=read_json(folder / "env.json") or {},
        records=tuple(_records(folder / "metrics.jsonl", name, problems)),
        predictions=_predictions(folder, name, problems) if test else (),
        bad=tuple(
            (str(record["path"]), str(record.get("reason", "")))
            for record in _records(folder / "bad_samples.jsonl", name, problems)
            if "path" in record
        ),
    )


def _records(path: Path, name: str, problems: list[str]) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    try:
        return [record for record in read_records(path) if isinstance(record, dict)]
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{name}: {path.name} cannot be read ({error})")
        return []


def _predictions(folder: Path, name: str, problems: list[str]) -> tuple[Prediction, ...]:
    if not (folder / "predictions.csv").is_file():
        return ()
    try:
        return tuple(read_predictions(folder / "predictions.csv"))
    except DataError as error:
        problems.append(f"{name}: {error}")
        return ()


def _is_whole(test: Mapping[str, Any]) -> bool:
    """Returns whether a `test.json` holds all that a table shows."""
    return (
        all(is_number(test.get(key)) for key in ("top1", "top5", "num_videos"))
        and isinstance(test.get("failed"), list)
        and isinstance(test.get("protocol"), str)
    )


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value from a file is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)
