"""Train and test an experiment, or go on with it where it stopped."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import takes_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("--cfg", required=True, help="a yaml file, or a name in configs/")
    takes_overrides(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.config import load_config

    config = load_config(args.cfg, args.overrides)  # a wrong key must not wait for torch

    from videogn.experiment import run_training

    run_training(config)
