"""Say what a file of weights is, and how to use it."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    parser.add_argument("file", nargs="?", help="a file or a known name; else the known names")
    parser.add_argument("--tensors", action="store_true", help="list them with their shapes")


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    from videogn.describe import describe, known_files

    print(describe(args.file, tensors=args.tensors) if args.file else known_files())
