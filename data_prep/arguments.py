"""Types of command-line arguments, each with an error that says what was wanted."""

from __future__ import annotations

import argparse


def fraction(text: str) -> float:
    """The number in `text`, from 0 to below 1."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not in [0, 1)")
    return value


def count(text: str) -> int:
    """The whole number in `text`, at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def even(text: str) -> int:
    """The even number in `text`, at least 16: a picture's side."""
    value = int(text)
    if value < 16 or value % 2:
        raise argparse.ArgumentTypeError(f"{text} is not an even number from 16")
    return value


def shard(text: str) -> tuple[int, int]:
    """`i/n` -> (i, n): the i-th of n parts of the work, counted from 1."""
    number, slash, total = text.partition("/")
    if not (slash and number.isdecimal() and total.isdecimal() and 1 <= int(number) <= int(total)):
        raise argparse.ArgumentTypeError(f"{text} is not i/n with 1 <= i <= n, such as 3/16")
    return int(number), int(total)
