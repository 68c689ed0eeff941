"""Train and test an experiment, or go on with it where it stopped."""

from __future__ import annotations

import argparse
import os

from videogn.cli.arguments import count, takes_overrides
from videogn.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("--cfg", required=True, help="a yaml file, or a name in configs/")
    parser.add_argument(
        "--dry-run", action="store_true", help="print the plan; nothing is run or written"
    )
    parser.add_argument(
        "--processes", type=count, metavar="N", help="with --dry-run: plan for so many (1)"
    )
    takes_overrides(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.config import load_config

    config = load_config(args.cfg, args.overrides)  # a wrong key must not wait for torch
    if args.dry_run:
        from videogn.plan import plan

        if os.environ.get("RANK", "0") == "0":
            print(plan(config, args.processes or int(os.environ.get("WORLD_SIZE", "1"))))
        return

    if args.processes:
        raise ConfigError(
            f"--processes {args.processes} is for --dry-run; start so many with `torchrun "
            f"--nproc_per_node {args.processes} run.py --cfg ...`"
        )

    from videogn.experiment import run_training

    run_training(config)
