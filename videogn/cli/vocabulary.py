"""Every word that the command line knows, gathered from the parsers and the configuration."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from videogn.cli import COMMANDS, command_parser
from videogn.cli.arguments import given, place
from videogn.config import CONFIG_DIR
from videogn.config.keys import keys
from videogn.config.typed import choices


@dataclass(frozen=True)
class Option:
    """An option of a command.

    Attributes:
        flags: how it may be written, such as `("-h", "--help")`.
        purpose: its help, in one line.
        takes: "" for a switch, else "config", "file" or "word".
        words: those that it takes, if they are known.
    """

    flags: tuple[str, ...]
    purpose: str
    takes: str
    words: tuple[str, ...]


@dataclass(frozen=True)
class Command:
    """A command: its `words` may stand alone, `overrides` tells whether keys=values may."""

    name: str
    purpose: str
    options: tuple[Option, ...]
    words: tuple[str, ...]
    overrides: bool


@dataclass(frozen=True)
class Vocabulary:
    """All commands, the names of shipped configs, and the keys with what each may be."""

    commands: tuple[Command, ...]
    configs: tuple[str, ...]
    values: dict[str, tuple[str, ...]]


def vocabulary() -> Vocabulary:
    """Returns the words known to this version."""
    return Vocabulary(
        tuple(_command(name, purpose) for name, purpose in COMMANDS.items()),
        tuple(sorted(path.name for path in CONFIG_DIR.glob("*.yaml"))),
        {path: _values(key.kind) for path, key in keys().items()},
    )


def _values(kind: object) -> tuple[str, ...]:
    return ("true", "false") if kind is bool else choices(kind)


def _command(name: str, purpose: str) -> Command:
    actions = command_parser(name)._actions  # argparse has no public list of them
    alone = [action for action in actions if not action.option_strings]
    return Command(
        name,
        purpose,
        tuple(_option(action) for action in actions if action.option_strings),
        tuple(str(word) for action in alone for word in action.choices or ()),
        any(action.dest == "overrides" for action in alone),
    )


def _option(action: argparse.Action) -> Option:
    words = tuple(str(word) for word in action.choices or ())
    takes = "file" if not words and action.type in (None, Path, place, given) else "word"
    if action.nargs == 0:
        takes = ""
    elif action.dest == "cfg":
        takes = "config"
    return Option(tuple(action.option_strings), action.help or "", takes, words)
