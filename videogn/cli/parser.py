"""The parser of every command: a wrong word is answered with the nearest right one."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from types import ModuleType
from typing import Any, NoReturn

from videogn.nearest import did_you_mean, nearest


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors name the option or the word that was probably meant."""

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
        found = [(word, nearest(word, known)) for word in unknown]
        said = "".join(f"; {word}: did you mean {near}?" for word, near in found if near)
        super().error(message + said)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Refuses what is not one of an argument's choices; argparse calls it for each word."""
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError as error:
            near = did_you_mean(str(value), map(str, action.choices or ()))
            raise argparse.ArgumentError(action, f"{error.message}{near}") from None


def parser_of(module: ModuleType, prog: str) -> Parser:
    """Returns the parser of the command in `module`, which sets `run` to what runs it."""
    parser = Parser(prog=prog, description=module.__doc__)
    module.add_arguments(parser)
    parser.add_argument("--debug", action="store_true", help="a traceback with an error")
    parser.set_defaults(run=module.run)
    return parser


def no_command(word: str, commands: Iterable[str]) -> str:
    """Returns what to say of a first word that is no command."""
    near = did_you_mean(word, commands)
    return f"there is no command {word!r}{near or '; they are ' + ', '.join(commands)}"
