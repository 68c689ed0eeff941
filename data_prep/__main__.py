"""The command line of data_prep: one module a command, each with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module

from videogn.cli.parser import Parser, no_command, parser_of
from videogn.errors import DataError, VideognError, unusable_place

COMMANDS = {
    "index": "list a folder of videos; copies nothing",
    "k400": "unpack and list the official copy of Kinetics-400",
    "verify": "decode every video once and record what is in it",
    "reencode": "write all videos anew, small and quick to read, as a new root",
    "export": "write the lists that PySlowFast or MMAction2 read",
    "stats": "say what is in a data root, on the terminal and as a page",
    "synth": "render a synthetic set of moving shapes",
}

GO_ON = {"k400", "verify", "reencode"}  # from what they have on record


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code: 0 done, 2 usage (as SystemExit), 3 data."""
    words = list(sys.argv[1:] if argv is None else argv)
    arguments = _parse(words)
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of videos on a terminal without UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        return arguments.run(arguments) or 0
    except VideognError as error:
        if arguments.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if arguments.debug or error.filename is None:  # without a file it is no place of the user's
            raise
        print(f"error: {unusable_place(error)}", file=sys.stderr)
        return DataError.exit_code
    except KeyboardInterrupt:
        kept = "; the same command goes on where it stopped" if words[0] in GO_ON else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130


def _parse(words: Sequence[str]) -> argparse.Namespace:
    if words and words[0] in COMMANDS:
        return command_parser(words[0]).parse_intermixed_args(words[1:])
    overview = Parser(
        prog="python -m data_prep",
        description="Prepare a data root: train.csv, val.csv, classes.txt and source.txt.",
    )
    commands = overview.add_subparsers(required=True, metavar="command")
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose)
    if words and not words[0].startswith("-"):
        overview.error(no_command(words[0], COMMANDS))
    return overview.parse_args(words)  # help, or the usage


def command_parser(name: str) -> Parser:
    """Returns the parser of one command, which sets `run` to what runs it."""
    return parser_of(import_module(f"data_prep.{name}"), f"python -m data_prep {name}")


if __name__ == "__main__":
    sys.exit(main())
