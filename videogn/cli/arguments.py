"""Arguments that several commands take, and types with an error that says what was wanted."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path


def takes_overrides(parser: argparse.ArgumentParser) -> None:
    """Lets a command take `dotted.key=value` after its options, as `args.overrides`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides of the configuration"
    )


def takes_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Lets a command take `--ckpt FILE`, as `args.ckpt`."""
    parser.add_argument(
        "--ckpt",
        type=given,
        required=True,
        metavar="FILE",
        help="a checkpoint of a run, or a .pt or .safetensors that convert made of one",
    )


def given(text: str) -> str:
    """`text`, which is not empty, as a variable of the shell is that was never set."""
    if not text:
        raise argparse.ArgumentTypeError("'' names nothing; is a variable of the shell not set?")
    return text


def place(text: str) -> Path:
    """The path of a file or folder; "" would silently be the working folder."""
    return Path(given(text))


def new_file(text: str) -> Path:
    """The path of a file that can be written, as found out before the work and not after it."""
    path = place(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; name the file to write")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise argparse.ArgumentTypeError(f"nothing can be written below {above}; choose another")
    return path


def whole(text: str) -> int:
    """The whole number in `text`."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None


def count(text: str) -> int:
    """The whole number in `text`, at least 1."""
    value = whole(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def seed(text: str) -> int:
    """The whole number in `text`, at least 0."""
    value = whole(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is less than 0")
    return value


def between(least: int, most: int) -> Callable[[str], int]:
    """Returns what takes a whole number from `least` to `most` from a text."""

    def number(text: str) -> int:
        value = whole(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{text} is not from {least} to {most}")
        return value

    return number


def counts(text: str) -> list[int]:
    """The whole numbers of "8,32", least first, each at least 1."""
    return sorted({count(number) for number in text.split(",")})


def size(text: str) -> tuple[int, int]:
    """(height, width) in pixels of "256" or "256x340"."""
    height, by, width = text.partition("x")
    return count(height), count(width if by else height)
