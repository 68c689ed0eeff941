"""Compare two tests of the same videos: the difference, and how sure it is."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import place


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    what = "a tested run, the folder of a test, or a predictions.csv"
    parser.add_argument("a", type=place, metavar="A", help=what)
    parser.add_argument("b", type=place, metavar="B", help="another; differences are B - A")
    parser.add_argument("--json", action="store_true", help="everything, as json")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    import json
    from dataclasses import asdict

    from videogn.report.compare import compare, load_test
    from videogn.report.comparison_text import describe

    found = compare(load_test(args.a), load_test(args.b))
    if args.json:
        print(json.dumps({"a": str(args.a), "b": str(args.b), **asdict(found)}, indent=2))
    else:
        print(describe(found, str(args.a), str(args.b)))
