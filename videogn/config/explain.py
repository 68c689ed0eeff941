"""What a key means, in words, and tables of settings for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING
from typing import Any

import yaml

from videogn.config.checks import range_in_words
from videogn.config.keys import Key, keys, sections
from videogn.config.settings import Setting, no_key
from videogn.config.typed import in_words
from videogn.errors import ConfigError

AUTO = "auto"


def explain(path: str) -> str:
    """Returns what a key means, or one line for each key of a section; "" is the whole.

    Raises:
        ConfigError: there is no such key or section.
    """
    if path in keys():
        return _of_key(keys()[path])
    if path not in sections():
        raise ConfigError(no_key(path))
    inside = [key for name, key in keys().items() if f".{name}".startswith(f".{path}".rstrip("."))]
    purpose = sections()[path].__doc__ or ""
    return f"{purpose}\n\n" + columns((key.path, _default(key), key.doc) for key in inside)


def settings_table(settings: Mapping[str, Setting]) -> str:
    """Returns one line for each key: its value and where that came from."""
    rows = [(key, written(settings[key].value), settings[key].origin) for key in keys()]
    return columns([("key", "value", "from"), *rows])


def differences_table(
    first: Mapping[str, Setting], second: Mapping[str, Setting], names: Sequence[str]
) -> str:
    """Returns one line for each key in which two configurations differ, "" for none.

    Keys that make another experiment are marked with a star, those that one of the two leaves to a
    run and the other has from it with a tilde.
    """
    rows = [
        (
            f"{_mark(key, first, second)} {path}",
            written(first[path].value),
            written(second[path].value),
        )
        for path, key in keys().items()
        if first[path].value != second[path].value
    ]
    return columns([("  key", *names), *rows]) if rows else ""


def _mark(key: Key, first: Mapping[str, Setting], second: Mapping[str, Setting]) -> str:
    if not key.scientific:
        return " "
    for wanted, have in ((first, second), (second, first)):
        if wanted[key.path].value == AUTO and _is_resolved(have):
            return "~"
    return "*"


def _is_resolved(settings: Mapping[str, Setting]) -> bool:
    """Returns whether nothing is left for a run to find out, as in the configuration of one.

    A file that states a number for one key may mean another than `auto` would become.
    """
    return all(settings[path].value != AUTO for path, key in keys().items() if key.scientific)


def columns(rows: Iterable[Sequence[str]]) -> str:
    """Returns rows of words as lines, each column as wide as its widest word, the last as it is."""
    lines = list(rows)
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    )


def written(value: Any) -> str:
    """Returns a value as a yaml file states it, in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
    return text.removesuffix("\n...\n").strip()


def _of_key(key: Key) -> str:
    bounds = range_in_words(key)
    rows = [
        (key.path, key.doc),
        ("  type", in_words(key.kind) + (f", {bounds}" if bounds else "")),
        ("  default", _default(key)),
        ("  a change", "makes another experiment" if key.scientific else "may go on with a run"),
    ]
    return columns(rows)


def _default(key: Key) -> str:
    return "(to be stated)" if key.default is MISSING else written(key.default)
