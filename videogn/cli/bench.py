"""Measure this machine: `decode` sets our reader beside its peers."""

from __future__ import annotations

import argparse
from pathlib import Path

from videogn.cli.arguments import count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("what", choices=["decode"], help="decode: our reader beside its peers")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("video", nargs="?", type=Path, help="footage to use; else it is made up")
    parser.add_argument("--rounds", type=count, default=5, help="medians of so many (5)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.bench.decode import bench_decode

    print(bench_decode(args.out, args.rounds, args.video))
