"""A value of the type that its key has; nothing is converted but whole numbers to floats."""

from __future__ import annotations

import math
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin


class WrongTypeError(ValueError):
    """A value is not of its key's type; the message says what was wanted."""


def typed(value: Any, kind: Any) -> Any:
    """Returns `value` as `kind`, one of the annotations in `sections`.

    Raises:
        WrongTypeError: it is another type, or no finite number.
    """
    if isinstance(value, list) and (list_kind := _list_in(kind)):
        try:
            return [typed(one, get_args(list_kind)[0]) for one in value]
        except WrongTypeError as error:
            raise WrongTypeError(in_words(kind)) from error
    for option in options(kind):
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return value
        elif type(value) is option:
            return _usable(value, kind)
        elif option is float and type(value) is int and abs(value) < 2**53:
            return float(value)
    raise WrongTypeError(in_words(kind))


def options(kind: Any) -> tuple[Any, ...]:
    """Returns the alternatives of a union, else the kind alone."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def choices(kind: Any) -> tuple[str, ...]:
    """Returns the words that a key may be, if it is one of some."""
    found = [get_args(option) for option in options(kind) if get_origin(option) is Literal]
    return tuple(word for words in found for word in words)


def in_words(kind: Any) -> str:
    """Returns the kind as a person would say it."""
    return " or ".join(filter(None, map(_one_in_words, options(kind))))


def _one_in_words(kind: Any) -> str:
    if get_origin(kind) is Literal:
        words = get_args(kind)
        return repr(words[0]) if len(words) == 1 else f"one of {', '.join(map(repr, words))}"
    if get_origin(kind) is list:
        return f"a list, each {_one_in_words(get_args(kind)[0])}"
    names = {int: "a whole number", float: "a finite number", bool: "true or false", str: "text"}
    return "null" if kind is NoneType else names[kind]


def _list_in(kind: Any) -> Any:
    return next((option for option in options(kind) if get_origin(option) is list), None)


def _usable(value: Any, kind: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        raise WrongTypeError(in_words(kind))
    if isinstance(value, str) and "${" in value:
        raise WrongTypeError("text without ${...}: nothing is looked up in it")
    if value == "???":
        raise WrongTypeError("a value: ??? states none")
    return value
