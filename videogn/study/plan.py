"""What a study trains: one recipe, and grids of what differs.

A study's file is an experiment's, as every config, with one more section:

    study:
      clips: {train: 4096, ...}                   how many, see `ClipCounts`
      renorm_warmup_epochs: 0.25                  Batch Renorm's, in place of its steps
      rates:                                      trials that the rate of each norm is chosen by
        usual: {norm: [gn, bn], batch: 4, frames: 8, seed: 0, rate: [0.05, 0.1]}
      parts:                                      trials that are tested, at the rate chosen
        main: {norm: [gn, bn], batch: [8, 4, 2], frames: [8, 4], seed: [1, 2, 3]}

A grid gives a list for each field of `Trial`, or one value, and stands for all combinations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any, Literal, TypeVar, get_type_hints

from videogn.config import Config, config_from, find_config
from videogn.config.settings import takes_text
from videogn.config.strict_yaml import read_mapping
from videogn.config.typed import WrongTypeError, typed
from videogn.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True)
class ClipCounts:
    """How many clips there are.

    Attributes:
        train: for training; those of each seed differ.
        val: to choose by, and for the curves; the same for all trials.
        test: to report; the same for all trials.
        seed: of the two that are the same.
        clips_per_video: clips in a row that share background, noise level and light.
    """

    train: int
    val: int
    test: int
    seed: int
    clips_per_video: int = 8


@dataclass(frozen=True)
class Trial:
    """What differs from one network of a study to another.

    Attributes:
        norm: kind of normalization, `model.norm.kind`.
        batch: clips of a step.
        frames: of a clip.
        seed: of weights, training clips and their order.
        rate: for `optim.base_batch` clips, scaled linearly to `batch`; None: the one chosen.
        light: strength of the light.
        sub_batch: clips that share BN's statistics; None: the batch.
        order: "mixed", or "video": clips of one video are side by side in a batch.
        standardize: give every clip mean 0 and standard deviation 1 first.
    """

    norm: str
    batch: int
    frames: int
    seed: int
    rate: float | None = None
    light: float = 1.0
    sub_batch: int | None = None
    order: Literal["mixed", "video"] = "mixed"
    standardize: bool = False

    def __str__(self) -> str:
        """The norm, and whatever is not as usual."""
        usual = {field.name: field.default for field in fields(self)}
        told = {k: v for k, v in asdict(self).items() if v != usual[k] and k != "norm"}
        return ", ".join([self.norm, *(f"{key} {value}" for key, value in told.items())])


@dataclass(frozen=True)
class Study:
    """What a file says.

    Attributes:
        recipe: nested values of a config, the same for all trials.
        clips: how many.
        renorm_warmup_epochs: of Batch Renorm, in which it is BN; its limits grow for as long.
        rates: trials to choose rates by, each with one.
        parts: trials that are tested, by the name of what they show.
    """

    recipe: Mapping[str, Any]
    clips: ClipCounts
    renorm_warmup_epochs: float
    rates: list[Trial]
    parts: dict[str, list[Trial]]

    def config(self, trial: Trial) -> Config:
        """Returns the recipe with a trial's values in it.

        Raises:
            ConfigError: they do not fit it.
        """
        warmup = round(self.renorm_warmup_epochs * self.clips.train / trial.batch)
        norm = {"kind": trial.norm, "sub_batch": trial.sub_batch, "brn_warmup_steps": warmup}
        model, data, optim = (self.recipe[section] for section in ("model", "data", "optim"))
        return config_from(
            {
                **self.recipe,
                "seed": trial.seed,
                "model": {**model, "norm": {**model["norm"], **norm}},
                "data": {**data, "num_frames": trial.frames},
                "optim": {**optim, "clips_per_gpu": trial.batch, "base_lr": trial.rate or 0.1},
            },
            where=f"the trial {trial}",
        )

    def settings(self) -> dict[str, Any]:
        """Returns what all trials share, in plain values: with others they are another study."""
        return {
            "recipe": self.recipe,
            "clips": asdict(self.clips),
            "renorm_warmup_epochs": self.renorm_warmup_epochs,
        }


def read_study(source: str | Path) -> Study:
    """Returns the study of a file; a bare name is looked for in `configs/` too.

    Raises:
        ConfigError: one sentence naming the file or key, the value, and what was wanted.
    """
    path = find_config(source)
    values, _ = read_mapping(path, takes_text)
    section = values.pop("study", None)
    wanted = {"clips", "renorm_warmup_epochs", "rates", "parts"}
    if not isinstance(section, dict) or section.keys() != wanted:
        raise ConfigError(
            f"{path} is no study: it needs a section `study` with {', '.join(sorted(wanted))}; see "
            "configs/study/"
        )
    grids = {
        key: {
            name: trials_of(grid, f"{path}: study.{key}.{name}")
            for name, grid in _mapping(section[key], f"{path}: study.{key}").items()
        }
        for key in ("rates", "parts")
    }
    study = Study(
        recipe=values,
        clips=_filled(ClipCounts, section["clips"], f"{path}: study.clips"),
        renorm_warmup_epochs=_typed(
            section["renorm_warmup_epochs"], float, f"{path}: study.renorm_warmup_epochs"
        ),
        rates=[trial for trials in grids["rates"].values() for trial in trials],
        parts=grids["parts"],
    )
    _check(study, path)
    return study


def trials_of(grid: Any, where: str) -> list[Trial]:
    """Returns all combinations of a grid's values, those of one seed together.

    Raises:
        ConfigError: a field is unknown, missing, or of another type.
    """
    lists = {
        key: values if isinstance(values, list) else [values]
        for key, values in _mapping(grid, where).items()
    }
    found = [
        _filled(Trial, dict(zip(lists, values, strict=True)), where)
        for values in product(*lists.values())
    ]
    return sorted(found, key=lambda trial: trial.seed)


def _check(study: Study, path: Path) -> None:
    if any(trial.rate is None for trial in study.rates):
        raise ConfigError(f"{path}: study.rates gives no rate, but they are to choose one by")
    choosable = {trial.norm for trial in study.rates}
    tested = [trial for trials in study.parts.values() for trial in trials]
    chosen_by = {trial.seed for trial in study.rates}
    for trial in tested:
        if trial.seed in chosen_by:
            raise ConfigError(
                f"{path}: study.parts tests seed {trial.seed}, which study.rates chooses by; test "
                "others"
            )
        if trial.rate is None and trial.norm not in choosable:
            raise ConfigError(f"{path}: study.rates has no trial of {trial.norm} to choose a rate")
    for trial in [*study.rates, *tested]:
        study.config(trial)
        if study.clips.train % trial.batch or study.clips.train % study.clips.clips_per_video:
            raise ConfigError(
                f"{path}: study.clips.train is {study.clips.train}, no multiple of batches of "
                f"{trial.batch} and of videos of {study.clips.clips_per_video} clips"
            )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ConfigError(f"{where} is {value!r}; it must be a mapping of keys to values")
    return value


def _typed(value: Any, kind: Any, where: str) -> Any:
    try:
        return typed(value, kind)
    except WrongTypeError as error:
        raise ConfigError(f"{where} is {value!r}; it must be {error}") from error


def _filled(kind: type[T], value: Any, where: str) -> T:
    """Returns the dataclass `kind` of a mapping."""
    values, hints = _mapping(value, where), get_type_hints(kind)
    for key in values.keys() - hints.keys():
        raise ConfigError(f"{where}: there is no key {key}; known: {', '.join(hints)}")
    for field in fields(kind):  # type: ignore[arg-type]
        if field.name not in values and field.default is MISSING:
            raise ConfigError(f"{where} does not state {field.name}")
    return kind(**{key: _typed(values[key], hints[key], f"{where}.{key}") for key in values})
