"""Test a checkpoint under the protocol it was trained for, or another."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import place, takes_checkpoint, takes_overrides


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    takes_checkpoint(parser)
    parser.add_argument("--out", type=place, help="folder of the results (test_... in the run)")
    takes_overrides(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.testing import run_test

    run_test(args.ckpt, args.overrides, args.out)
