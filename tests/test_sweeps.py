"""The sweep files: each trial's command, as W&B's agent makes it, is one that we understand."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import yaml
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from videogn.cli import command_parser
from videogn.config import Config, load_config

REPOSITORY = Path(__file__).parents[1]
SWEEP = REPOSITORY / "configs" / "sweeps" / "table8.yaml"


def commands(sweep: dict[str, Any]) -> list[list[str]]:
    """Returns the command of every point of a grid, as `wandb agent` runs it on Linux."""
    names = list(sweep["parameters"])
    points = product(*(sweep["parameters"][name]["values"] for name in names))
    made = []
    for point in points:
        chosen = {name: {"value": value} for name, value in zip(names, point, strict=True)}
        words = create_sweep_command_args({"args": chosen})
        words |= {"env": ["/usr/bin/env"], "program": [sweep["program"]]}
        command: list[str] = []
        for part in create_sweep_command(sweep["command"]):
            command += words[part[2:-1]] if part.startswith("${") else [part]
        made.append(command)
    return made


def configs() -> list[Config]:
    """Returns the configuration of each trial of Table 8, as the command line reads it."""
    read = []
    for command in commands(yaml.safe_load(SWEEP.read_text(encoding="utf-8"))):
        assert command[:2] == ["/usr/bin/env", "torchrun"]
        program = command.index("run.py")
        assert command[program + 1] == "train"
        args = command_parser("train").parse_intermixed_args(command[program + 2 :])
        read.append(load_config(args.cfg, args.overrides))
    return read


def test_the_trials_are_the_six_cells_of_table_8() -> None:
    cells = [
        (c.model.norm.kind, c.data.num_frames, c.optim.clips_per_gpu, c.optim.accumulate)
        for c in configs()
    ]
    assert sorted(cells) == sorted(
        (norm, frames, clips, 1)
        for norm in ("bn", "gn")
        for frames, clips in ((32, 8), (32, 4), (64, 4))
    )


def test_the_trials_are_shown_together() -> None:
    assert {c.wandb.group for c in configs()} == {"table8"}
    assert {c.seed for c in configs()} == {0}


def test_what_the_sweep_maximizes_is_in_the_summary() -> None:
    sweep = yaml.safe_load(SWEEP.read_text(encoding="utf-8"))
    assert sweep["metric"] == {"name": "test/top1", "goal": "maximize"}
    assert (REPOSITORY / sweep["program"]).is_file()
