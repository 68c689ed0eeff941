"""Arguments that several commands take, and types with an error that says what was wanted."""

from __future__ import annotations

import argparse


def takes_overrides(parser: argparse.ArgumentParser) -> None:
    """Lets a command take `dotted.key=value` after its options, as `args.overrides`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides of the configuration"
    )


def takes_checkpoint(parser: argparse.ArgumentParser) -> None:
    """Lets a command take `--ckpt FILE`, as `args.ckpt`."""
    parser.add_argument(
        "--ckpt",
        required=True,
        metavar="FILE",
        help="a checkpoint of a run, or a .pt or .safetensors that convert made of one",
    )


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


def counts(text: str) -> list[int]:
    """The whole numbers of "8,32", least first, each at least 1."""
    return sorted({count(number) for number in text.split(",")})


def size(text: str) -> tuple[int, int]:
    """(height, width) in pixels of "256" or "256x340"."""
    height, _, width = text.partition("x")
    return count(height), count(width or height)
