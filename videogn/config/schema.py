"""The JSON schema of a configuration file, with which an editor completes and checks it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from videogn.config.keys import Key, keys
from videogn.config.sections import Config
from videogn.config.typed import options

_TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", NoneType: "null"}
_BOUNDS = {
    "least": "minimum",
    "above": "exclusiveMinimum",
    "most": "maximum",
    "below": "exclusiveMaximum",
}


def schema() -> dict[str, Any]:
    """Returns the schema as plain values: draft 7, the one that yaml editors know."""
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "a videogn experiment",
        **_of_section(Config, ""),
    }


def _of_section(section: type, path: str) -> dict[str, Any]:
    hints = get_type_hints(section)
    inner = {one.name: f"{path}.{one.name}".lstrip(".") for one in fields(section)}
    return {
        "description": section.__doc__,
        "type": "object",
        "additionalProperties": False,
        "required": [name for name in inner if _is_required(hints[name], inner[name])],
        "properties": {
            name: _of_section(hints[name], where)
            if is_dataclass(hints[name])
            else _of_key(keys()[where])
            for name, where in inner.items()
        },
    }


def _is_required(kind: Any, path: str) -> bool:
    """Returns whether a file must state the key, or the section since a key in it."""
    if not is_dataclass(kind):
        return keys()[path].default is MISSING
    inside = [key for name, key in keys().items() if name.startswith(f"{path}.")]
    return any(key.default is MISSING for key in inside)


def _of_key(key: Key) -> dict[str, Any]:
    kinds = [_of_kind(kind, key.bounds) for kind in options(key.kind)]
    found = kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
    default = {} if key.default is MISSING else {"default": key.default}
    return {"description": key.doc, **found, **default}


def _of_kind(kind: Any, bounds: Mapping[str, float | None]) -> dict[str, Any]:
    if get_origin(kind) is Literal:
        return {"enum": list(get_args(kind))}
    if get_origin(kind) is list:
        return {"type": "array", "items": _of_kind(get_args(kind)[0], bounds)}
    found: dict[str, Any] = {"type": _TYPES[kind]}
    if kind in (int, float):
        found |= {_BOUNDS[name]: bound for name, bound in bounds.items() if bound is not None}
    return found
