"""Show what runs reached: Table 8 beside the paper's, Fig. 7, and a page of all runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from videogn.cli.arguments import between, place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument(
        "runs", type=place, nargs="?", default=Path("runs"), help="folder of runs (runs)"
    )
    parser.add_argument(
        "--thumbnails",
        type=between(0, 24),
        default=6,
        metavar="N",
        help="right and wrong videos that the page shows of each run, 0 (opens no video) to 24 (6)",
    )


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.report.write import write_report

    print(write_report(args.runs, thumbnails=args.thumbnails))
