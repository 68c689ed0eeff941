"""Layers of settings: each value with where it came from, the later layer winning."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any

from videogn.config.keys import keys, kinds, nearest_key, odd_letters, sections
from videogn.config.strict_yaml import plain, read_mapping, read_value
from videogn.config.typed import WrongTypeError, choices, options, typed
from videogn.errors import ConfigError
from videogn.nearest import did_you_mean

DEFAULT, OVERRIDE = "default", "override"


@dataclass(frozen=True)
class Setting:
    """A value and its origin: `default`, `override`, or a place as `mine.yaml:12`."""

    value: Any
    origin: str


Settings = dict[str, Setting]  # by dotted key


def defaults() -> Settings:
    """Returns the settings of all keys that need not be stated."""
    return {
        path: Setting(key.default, DEFAULT)
        for path, key in keys().items()
        if key.default is not MISSING
    }


def of_file(path: Path) -> Settings:
    """Returns what a yaml file states.

    Raises:
        ConfigError: see `videogn.config.load_config`.
    """
    values, lines = read_mapping(path, takes_text)
    here = Path.cwd()
    place = path.relative_to(here) if path.is_relative_to(here) else path
    return of_values(values, lambda key: f"{place}:{lines[key]}" if key in lines else str(place))


def of_values(values: Any, origin: Callable[[str], str]) -> Settings:
    """Returns the settings that nested plain values are; `origin` tells that of a dotted key.

    Raises:
        ConfigError: see `videogn.config.load_config`.
    """
    found: Settings = {}
    _walk(values, "", origin, found)
    return found


def of_override(text: str) -> Settings:
    """Returns what `dotted.key=value` states.

    Raises:
        ConfigError: see `videogn.config.load_config`.
    """
    path, equals, written = text.partition("=")
    if not equals or not path or path.startswith("-"):
        raise ConfigError(f"{text!r} is not an override; write dotted.key=value")
    try:
        value = _text(written) if takes_text(path) else read_value(written)
    except ConfigError as error:
        raise ConfigError(f"override {text!r} cannot be read: {error}") from error
    for part in reversed(path.split(".")):
        value = {part: value}
    return of_values(value, lambda _: OVERRIDE)


def takes_text(path: str) -> bool:
    """Returns whether any text may be the value of `path`, which is then kept as it is written."""
    return path in keys() and not {str, list[str]}.isdisjoint(options(keys()[path].kind))


def _text(written: str) -> Any:
    """Returns a text as it was typed: a folder may be called 0123 or no; quotes are yaml's."""
    if written[:1] in ("'", '"', "[", "{"):
        return read_value(written, is_text=True)
    return None if plain(written) is None else written


def _walk(
    values: Any, section: str, origin: Callable[[str], str], found: dict[str, Setting]
) -> None:
    if not isinstance(values, Mapping):
        raise _refused(origin(section), section, values, "a section of keys, not a value")
    known = kinds(sections()[section])
    for name, value in values.items():
        path = f"{section}.{name}" if section else str(name)
        if name not in known:
            raise ConfigError(f"{_where(origin(path), path, value)}: {no_key(path)}")
        if path in sections():
            _walk(value, path, origin, found)
            continue
        try:
            found[path] = Setting(typed(value, keys()[path].kind), origin(path))
        except WrongTypeError as error:
            raise _refused(origin(path), path, value, f"{error}") from error


def no_key(path: str) -> str:
    """Returns what to say of a path that is neither a key nor a section."""
    odd, near = odd_letters(path), nearest_key(path)
    said = f"there is no key {path}"
    if odd:
        said += f", of which {odd}"
    return said + (f"; did you mean {near}?" if near else "; run.py config --explain lists them")


def _where(origin: str, path: str, value: Any) -> str:
    """Returns what an error opens with: the override itself, or the place in a file."""
    return f"{path}={shown(value)}" if origin == OVERRIDE else origin


def _refused(origin: str, path: str, value: Any, wanted: str) -> ConfigError:
    return refusal(Setting(value, origin), path, wanted)


def refusal(setting: Setting, path: str, wanted: str) -> ConfigError:
    """Returns the error for a value that is not what its key wants."""
    place = "" if setting.origin in (DEFAULT, OVERRIDE) else f"{setting.origin}: "
    said = f"{place}{path or 'the whole'}={shown(setting.value)}: wanted {wanted}"
    return ConfigError(said + _hint(path, setting.value, wanted))


def _hint(path: str, value: Any, wanted: str) -> str:
    """Returns what may have gone wrong with a text."""
    if not isinstance(value, str):
        return ""
    if "number" in wanted and isinstance(plain(value), int | float):
        return "; write it without quotes"
    words = choices(keys()[path].kind) if path in keys() else ()
    odd = odd_letters(value) if words else ""
    return (f"; {odd}" if odd else "") + did_you_mean(value, words)


def shown(value: Any) -> str:
    """Returns a value as yaml writes it in one line, cut where it is long."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
