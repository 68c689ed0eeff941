"""The command line: one module a command, each with `add_arguments` and `run`; nothing else.

A module imports what its command needs within `run`, so that help and a wrong word are quick.
"""

from __future__ import annotations

import argparse
import os
import select
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from videogn.cli.parser import Parser, no_command, parser_of
from videogn.errors import VideognError, unusable_place

COMMANDS = {
    "train": "train and test an experiment, or go on with it",
    "test": "test a checkpoint under any protocol",
    "predict": "name the class of video files",
    "report": "Table 8 beside the paper's, Fig. 7, and a page of all runs",
    "compare": "two tests of the same videos: the difference, and how sure it is",
    "analyze": "the reasons behind a number: mistakes, noise, where a network looks",
    "completion": "commands, options and keys for a shell's Tab",
    "config": "every value and where it came from",
    "doctor": "what works on this machine, and what to do about the rest",
    "demo": "the whole chain on made-up videos, in minutes",
    "study": "small batches: many small networks, and who suffers",
    "fit": "the memory that a training step will take, for any number of clips",
    "bench": "measure this machine: decode, step",
    "weights": "what a file of weights is, and how to use it",
    "convert": "weights of any layout into another",
    "export": "a checkpoint as a program for other runtimes",
}

GO_ON = {"train", "test", "demo", "study"}  # from what they have saved

EXAMPLES = """examples:
  python run.py demo                                         the whole chain on made-up videos
  python run.py doctor                                       what works on this machine
  python -m data_prep index VIDEOS --out data/mine --val 0.2
  python run.py --cfg i3d_gn_64f.yaml data.root=/data/k400   trains, then tests; goes on if stopped
  torchrun --nproc_per_node 8 run.py --cfg i3d_bn_32f.yaml data.root=/data/k400
  python run.py fit --cfg i3d_gn_64f.yaml --memory 24        how many clips a GPU holds
  python run.py test --ckpt runs/x/y/checkpoints/last.pt eval.crops=three
  python run.py predict --ckpt best.pt clip.mp4 more/*.mp4 --json
  python run.py report runs/                                 Table 8, curves, runs/report.html
  python run.py compare runs/bn/1 runs/gn/1                  which is better, and how sure

--dry-run behind --cfg shows the plan alone; `config --explain KEY` says what a key means.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code.

    0 done; 2 usage, configuration, weights or checkpoint refused; 3 data; 4 training diverged;
    5 out of memory; 130 interrupted.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].startswith("-") and words[0] not in ("-h", "--help"):
        words.insert(0, "train")
    args = _parse(words)
    for number in (signal.SIGTERM, signal.SIGUSR1):  # as Ctrl-C; training has a way of its own
        signal.signal(number, signal.default_int_handler)
    try:
        return args.run(args) or 0
    except VideognError as error:
        if args.debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        if args.debug or not _reader_left():
            raise
        return 141  # as a shell says of a program that its reader left, as `| head` does
    except OSError as error:
        if args.debug or error.filename is None:  # without a file it is no place of the user's
            raise
        print(f"error: {unusable_place(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        if args.debug:
            raise
        goes_on = words[0] in GO_ON and "resume=never" not in words
        kept = "; the same command goes on from what is saved" if goes_on else ""
        print(f"interrupted{kept}", file=sys.stderr)
        return 130


def _reader_left() -> bool:
    """Returns whether nobody reads stdout any more; what is left to write is then dropped."""
    stdout = select.poll()
    stdout.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in stdout.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _parse(words: Sequence[str]) -> argparse.Namespace:
    """Returns the parsed words; options may stand between file names and overrides."""
    if words and words[0] in COMMANDS:
        return command_parser(words[0]).parse_intermixed_args(words[1:])
    overview = _overview()
    if words and not words[0].startswith("-"):
        overview.error(_not_begun_with(words[0]))
    return overview.parse_args(words)  # help, or the usage


def _not_begun_with(word: str) -> str:
    """Returns what to say of a first word that is no command."""
    if word.endswith((".yaml", ".yml")):
        return f"{word!r} is no command; did you mean --cfg {word}?"
    if "=" in word:
        return f"{word!r} stands where a command belongs; overrides come after --cfg NAME"
    return no_command(word, COMMANDS)


def _overview() -> Parser:
    parser = Parser(
        prog="run.py",
        description="Train, test and use video classifiers. `train` is the default command.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, purpose in COMMANDS.items():
        commands.add_parser(name, help=purpose)
    return parser


def command_parser(name: str) -> Parser:
    """Returns the parser of one command, which sets `run` to what runs it."""
    return parser_of(import_module(f"videogn.cli.{name}"), f"run.py {name}")
