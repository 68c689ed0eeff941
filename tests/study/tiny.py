"""A study of a few seconds, and results that nobody trained for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from videogn.config import CONFIG_DIR
from videogn.study.plan import Study, Trial, read_study
from videogn.study.records import Done

SECTION: dict[str, Any] = {
    "clips": {"train": 32, "val": 16, "test": 24, "seed": 1000, "clips_per_video": 8},
    "renorm_warmup_epochs": 0.5,
    "rates": {
        "all": {"norm": ["gn", "bn"], "batch": 8, "frames": 4, "seed": 0, "rate": [0.1, 0.2]}
    },
    "parts": {"main": {"norm": ["gn", "bn"], "batch": [8, 4], "frames": 4, "seed": [1, 2]}},
}


def write_study(folder: Path, **changes: Any) -> Path:
    """The shipped recipe with a tiny section `study`, of which `changes` replace parts."""
    values = yaml.safe_load((CONFIG_DIR / "study" / "cpu.yaml").read_text(encoding="utf-8"))
    values["study"] = SECTION | changes
    values["optim"] |= {"epochs": 1, "milestones": [0.6]}
    values["eval"] |= {"monitor_every_epochs": 0.5, "precise_bn_batches": 2}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
    return path


def tiny_study(folder: Path, **changes: Any) -> Study:
    return read_study(write_study(folder, **changes))


def reached(trial: Trial, *, tested: bool = True, **numbers: float) -> Done:
    """A line of the record in which both splits ended at `val` and `test`."""
    curve = [[0.5, 60.0], [1.0, 40.0 + trial.seed]]
    return Done(trial, {"tested": tested, "curve": curve, **numbers})
