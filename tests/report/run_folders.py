"""Folders as runs leave them, without running anything."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from videogn.config import Config, load_config, to_dict
from videogn.report.predictions import COLUMNS

TEST: dict[str, Any] = {
    "top1": 73.04,
    "top5": 90.55,
    "num_videos": 19761,
    "num_decoded": 19759,
    "failed": [{"path": "a.mp4", "reason": "cut"}, {"path": "b.mp4", "reason": "cut"}],
    "protocol": "10 clips in words",
    "checkpoint": "last.pt",
    "clips_per_step": 64,
}
ENV: dict[str, Any] = {
    "started": "2026-11-21T00:35:47+0000",
    "python": "3.11.7",
    "system": "Linux x86_64",
    "cpus": 16,
    "gpus": ["NVIDIA A100"] * 8,
    "packages": {"torch": "2.15.0", "videogn": None},
    "git": {"commit": "706e4c76bed62dfbcb477b1ae86e046cea8dcd7e", "dirty": True},
    "world_size": 8,
}
# What `auto` becomes.
RESOLVED = ("model.num_classes=400", "data.mean=[0.4,0.4,0.4]", "data.std=[0.2,0.2,0.2]")


@cache
def parsed(name: str, overrides: tuple[str, ...] = ()) -> Config:
    """The config, each parsed once."""
    return load_config(name, overrides)


def write_run(
    folder: Path, *overrides: str, experiment: str = "i3d_gn_32f", age: int = 0, **test: Any
) -> Path:
    """Writes what a finished run of `experiment` leaves, `age` seconds ago."""
    folder.mkdir(parents=True)
    config = parsed(experiment, (*RESOLVED, *overrides))
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    (folder / "env.json").write_text(json.dumps(ENV))
    (folder / "test.json").write_text(json.dumps(TEST | test))
    finished = 1_000_000_000 - age
    os.utime(folder / "test.json", (finished, finished))
    return folder


def write_curve(folder: Path, errors: Sequence[float], *, steps: int = 10) -> None:
    """Writes the records of a run that was monitored after each of its epochs."""
    lines = []
    for epoch, error in enumerate(errors, start=1):
        record = {"step": epoch * steps, "epoch": float(epoch)}
        train = {"split": "train", "loss": 2.0, "lr": 0.1, "clips_per_s": 320.0, "data_wait": 0.1}
        lines += [record | train, record | {"split": "val", "val/error_1clip_aug": error}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def write_predictions(folder: Path, rows: Sequence[tuple[str, str, str, float]]) -> None:
    """Writes (path, label, prediction, probability) of videos; no prediction: it failed."""
    with (folder / "predictions.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for path, label, said, probability in rows:
            right = int(label == said)
            told = [path, label, said, probability, right, said, "" if said else "cut"]
            if not said:
                told[3] = ""
            true = probability if right else 0.01
            writer.writerow([*told, true if said else "", right, probability if said else ""])
