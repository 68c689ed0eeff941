"""Run the whole chain on made-up videos: data, training with GN and BN, the 10-clip test."""

from __future__ import annotations

import argparse
from pathlib import Path

from videogn.cli.arguments import place, seed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument(
        "--out", type=place, default=Path("runs/demo"), help="folder to work in (runs/demo)"
    )
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="of all that is random (0)"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.demo import run_demo

    print(run_demo(args.out, args.seed))
