"""Try every part of this machine that a training needs, with advice where one is wanting."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("--place", default="runs", metavar="FOLDER", help="where runs will write")
    parser.add_argument("--json", action="store_true", help="for programs")


def run(args: argparse.Namespace) -> int:
    """Runs the command; returns 2 when something must be mended before a training."""
    import json
    from dataclasses import asdict
    from pathlib import Path

    from videogn.doctor import examine, table

    findings = list(examine(Path(args.place)))
    print(json.dumps([asdict(f) for f in findings], indent=2) if args.json else table(findings))
    return 2 if any(finding.state == "bad" for finding in findings) else 0
