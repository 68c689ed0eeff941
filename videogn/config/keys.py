"""The keys of the configuration as data: made once from the dataclasses, read by all that ask."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Any, get_type_hints

from videogn.config.sections import Config
from videogn.nearest import nearest


@dataclass(frozen=True)
class Key:
    """One key.

    Attributes:
        path: dotted, as `optim.base_lr`.
        kind: its type, as annotated.
        default: `REQUIRED` when every experiment must state it.
        doc: one line on what it means.
        bounds: of its numbers: `least`, `above`, `most`, `below`; None where there is none.
        scientific: whether another value makes another experiment.
    """

    path: str
    kind: Any
    default: Any
    doc: str
    bounds: Mapping[str, float | None]
    scientific: bool


@cache
def keys() -> dict[str, Key]:
    """Returns every key by its dotted path, in the order of the files."""
    return {key.path: key for key in _keys_in(Config, "")}


@cache
def sections() -> dict[str, type]:
    """Returns the dataclass of every section by its dotted path; the whole is ""."""
    return dict(_sections_in(Config, ""))


@cache
def kinds(section: type) -> dict[str, Any]:
    """Returns the types of what is in a section by name, resolved once, for that is slow."""
    return get_type_hints(section)


def nearest_key(path: str) -> str:
    """Returns the known key or section that `path` most resembles, "" when none does."""
    known = [*keys(), *filter(None, sections())]
    known = [name for name in known if name != path.rpartition(".")[0]]  # that much was right
    lasts = {name.rpartition(".")[2]: name for name in known}
    # The last part may be nearly right and its section wrong.
    return nearest(path, known) or lasts.get(nearest(path.rpartition(".")[2], lasts), "")


def odd_letters(text: str) -> str:
    """Returns in words the letters of `text` that only look like those of a key, "" if none."""
    odd = dict.fromkeys(letter for letter in text if not letter.isascii())
    return ", ".join(f"{letter!r} is {unicodedata.name(letter, 'unnamed')}" for letter in odd)


def _keys_in(section: type, prefix: str) -> Iterator[Key]:
    for one in fields(section):
        kind, path = kinds(section)[one.name], prefix + one.name
        if is_dataclass(kind):
            yield from _keys_in(kind, f"{path}.")  # type: ignore[arg-type]
            continue
        default = one.default if one.default_factory is MISSING else one.default_factory()
        yield Key(path, kind, default, **one.metadata)


def _sections_in(section: type, path: str) -> Iterator[tuple[str, type]]:
    yield path, section
    for name, kind in kinds(section).items():
        if is_dataclass(kind):
            yield from _sections_in(kind, f"{path}.{name}".lstrip("."))  # type: ignore[arg-type]
