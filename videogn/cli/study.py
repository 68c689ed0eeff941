"""Train many small networks that differ in norm, batch and seed: who suffers from small batches."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import count, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument(
        "--cfg", default="study/cpu.yaml", metavar="FILE", help="a study (study/cpu.yaml)"
    )
    parser.add_argument(
        "--out", type=place, required=True, metavar="FOLDER", help="for all results"
    )
    parser.add_argument("--jobs", type=count, default=1, help="processes of one thread each (1)")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.study.run import run_study

    print(run_study(args.cfg, args.out, args.jobs))
