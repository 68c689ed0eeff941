"""A strict reader of yaml: one mapping of plain values, in which nothing is guessed or hidden.

Plain yaml drops the first of two equal keys, reads 1e-4 as text, `no` as false, 010 as 8 and 1:30
as 90, follows references until memory ends, and may make objects. Here a number is a number, only
true and false are true and false, and the rest is text or refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from videogn.errors import ConfigError

MAX_BYTES = 1_000_000  # 200 times the longest shipped file
MAX_DEPTH = 8  # the deepest key has 3 parts
_INT = re.compile(r"[-+]?(0|[1-9][0-9]{0,30})")
_FLOAT = re.compile(r"[-+]?([0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL"), None),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
    **dict.fromkeys((".inf", "+.inf", ".Inf", ".INF"), float("inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), float("-inf")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), float("nan")),
}


def read_mapping(path: Path, is_text: Callable[[str], bool]) -> tuple[dict[str, Any], dict]:
    """Returns the nested values of a file, and the line of each dotted key.

    Args:
        path: UTF-8, with or without a byte order mark.
        is_text: whether a dotted key takes text, which is kept as it is written.

    Raises:
        ConfigError: one sentence with the file and, where there is one, the line.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ConfigError(f"{path} has {size} bytes; a configuration has at most {MAX_BYTES}")
        text = path.read_text(encoding="utf-8")  # yaml passes over a byte order mark
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text ({error.reason}); save it as that") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    reader = _Reader(text, is_text)
    try:
        values = reader.document()
    except _RefusedError as error:
        raise ConfigError(f"{path}:{error.line}: {error.reason}") from error
    if not isinstance(values, dict) or not values:
        raise ConfigError(f"{path} holds no configuration: it must be a mapping of keys to values")
    return values, reader.lines


def read_value(text: str, *, is_text: bool = False) -> Any:
    """Returns the value that `text` is, as on the command line.

    Args:
        text: in yaml.
        is_text: whether words in it are text, even where they look like numbers.

    Raises:
        ConfigError: it is none; the message says why, without naming a place.
    """
    try:
        return _Reader(text, lambda _: is_text).document()
    except _RefusedError as error:
        raise ConfigError(error.reason) from error


class _RefusedError(Exception):
    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason, self.line = reason, line


class _Reader:
    """Values of one text; `lines` are those of the dotted keys read so far."""

    def __init__(self, text: str, is_text: Callable[[str], bool]) -> None:
        self.text, self.is_text = text, is_text
        self.lines: dict[str, int] = {}

    def document(self) -> Any:
        """Returns what the text holds, None when it holds nothing."""
        events = self._events()
        first = next(events, None)
        value = None if first is None else self._value(first, events, "")
        second = next(events, None)
        if second is not None:
            raise _RefusedError("a second document begins; a file holds one", _line(second))
        return value

    def _events(self) -> Iterator[Any]:
        """Yields yaml's events without the frame round them; hidden meanings are refused."""
        depth = 0
        try:
            for event in yaml.parse(self.text, Loader=yaml.SafeLoader):
                if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
                    name = event.anchor
                    raise _RefusedError(
                        f"&{name} and *{name} are references; write the values out", _line(event)
                    )
                if getattr(event, "tag", None):
                    raise _RefusedError(f"{event.tag} is a tag; write a plain value", _line(event))
                depth += isinstance(event, yaml.CollectionStartEvent)
                depth -= isinstance(event, yaml.CollectionEndEvent)
                if depth > MAX_DEPTH:
                    raise _RefusedError(f"values nest deeper than {MAX_DEPTH}", _line(event))
                if isinstance(
                    event, yaml.CollectionStartEvent | yaml.CollectionEndEvent | yaml.ScalarEvent
                ):
                    yield event
        except yaml.MarkedYAMLError as error:
            line = error.problem_mark.line + 1 if error.problem_mark else 1
            raise _RefusedError(f"not valid yaml: {error.problem}", line) from error
        except yaml.reader.ReaderError as error:
            line = self.text.count("\n", 0, error.position) + 1
            raise _RefusedError(
                f"not valid yaml: character {error.character:#x} is not allowed", line
            ) from error
        except (ValueError, OverflowError) as error:  # "\U00110000", which is no character
            raise _RefusedError(f"not valid yaml: {error}", 1) from error

    def _value(self, event: Any, events: Iterator[Any], path: str) -> Any:
        if isinstance(event, yaml.MappingStartEvent):
            return self._mapping(events, path)
        if isinstance(event, yaml.SequenceStartEvent):
            return self._sequence(events, path)
        if event.style is not None or (self.is_text(path) and event.value not in _WORDS):
            return event.value
        return plain(event.value)

    def _sequence(self, events: Iterator[Any], path: str) -> list[Any]:
        found = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            found.append(self._value(event, events, path))
        return found

    def _mapping(self, events: Iterator[Any], path: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(events), yaml.MappingEndEvent):
            line = _line(event)
            if not isinstance(event, yaml.ScalarEvent):
                raise _RefusedError("a list or mapping stands where a key belongs", line)
            inner = f"{path}.{event.value}" if path else event.value
            if event.value in found:
                raise _RefusedError(
                    f"{inner} stands here again, first in line {self.lines[inner]}", line
                )
            self.lines[inner] = line
            found[event.value] = self._value(next(events), events, inner)
        return found


def plain(word: str) -> Any:
    """Returns the null, bool or number that an unquoted word is, else the word itself."""
    if word in _WORDS:
        return _WORDS[word]
    if _INT.fullmatch(word):
        return int(word)
    return float(word) if _FLOAT.fullmatch(word) else word


def _line(event: Any) -> int:
    return event.start_mark.line + 1
