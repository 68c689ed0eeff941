"""Show what runs reached: Table 8 beside the paper's."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("runs", type=Path, nargs="?", default=Path("runs"), help="folder of runs")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.report.table8 import write_report

    print(write_report(args.runs))
