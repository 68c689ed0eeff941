"""Command-line arguments that data_prep alone takes, and types; see `videogn.cli.arguments`."""

from __future__ import annotations

import argparse

from videogn.cli.arguments import whole


def takes_max_bad(parser: argparse.ArgumentParser) -> None:
    """Lets a command take `--max-bad SHARE`, as `max_bad`."""
    parser.add_argument(
        "--max-bad",
        metavar="SHARE",
        type=fraction,
        default=0.01,
        help="bad videos; more end with 3 (0.01)",
    )


def fraction(text: str) -> float:
    """The number in `text`, from 0 to below 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, such as 0.1") from None
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def even(text: str) -> int:
    """The even number in `text`, at least 16: a picture's side."""
    value = whole(text)
    if value < 16 or value % 2:
        raise argparse.ArgumentTypeError(f"{text} is not an even number from 16")
    return value


def shard(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n): the i-th of n parts of the work, counted from 1."""
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text} is not i/n with 1 <= i <= n, such as 3/16")
    return int(number), int(total)
