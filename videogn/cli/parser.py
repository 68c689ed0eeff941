"""The parser of every command: a wrong word is answered with the nearest right one."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors name the option that was probably meant."""

    given: Sequence[str] = ()

    def parse_intermixed_args(  # type: ignore[override]  # it has overloads
        self, args: Any = None, namespace: Any = None
    ) -> Any:
        """Returns the parsed words, which are remembered for an error."""
        self.given = list(args or ())
        return super().parse_intermixed_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Ends with the usage, the message and the nearest option, exit code 2."""
        known = list(self._option_string_actions)
        options = [word.partition("=")[0] for word in self.given if word.startswith("--")]
        unknown = [word for word in options if not any(flag.startswith(word) for flag in known)]
        said = "".join(f"; {word}{near}" for word in unknown if (near := did_you_mean(word, known)))
        super().error(message + said)


def no_command(word: str, commands: Iterable[str]) -> str:
    """Returns what to say of a first word that is no command."""
    if word.endswith((".yaml", ".yml")):
        return f"{word!r} is no command; did you mean --cfg {word}?"
    if "=" in word:
        return f"{word!r} stands where a command belongs; overrides come after --cfg NAME"
    near = did_you_mean(word, commands)
    return f"there is no command {word!r}{near or '; they are ' + ', '.join(commands)}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Returns ": did you mean X?" of the nearest known word, "" when none is near."""
    found = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f": did you mean {found[0]}?" if found else ""
