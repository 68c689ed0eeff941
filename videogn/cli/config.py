"""Show a configuration: every value and where it came from, what differs, what a key means."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from videogn.cli.arguments import takes_overrides
from videogn.errors import ConfigError

if TYPE_CHECKING:
    from videogn.config.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds what the command takes."""
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--cfg", help="a yaml file, or a name in configs/")
    what.add_argument("--ckpt", metavar="FILE", help="a checkpoint, whose configuration is shown")
    what.add_argument(
        "--diff", nargs=2, metavar=("A", "B"), help="configs, run folders or checkpoints"
    )
    what.add_argument(
        "--explain", nargs="?", const="", metavar="KEY", help="a key or section; all without one"
    )
    what.add_argument("--schema", action="store_true", help="the JSON schema, for editors")
    takes_overrides(parser)


def run(args: argparse.Namespace) -> None:
    """Runs the command."""
    import json

    if args.overrides and (args.schema or args.explain is not None):
        raise ConfigError(f"{args.overrides[0]!r} overrides nothing here; leave it out")

    from videogn.config import load_settings
    from videogn.config.explain import explain, settings_table
    from videogn.config.schema import schema

    if args.schema:
        print(json.dumps(schema(), indent=2))
    elif args.explain is not None:
        print(explain(args.explain))
    elif args.diff:
        print(_differences(args.diff, args.overrides))
    elif args.ckpt:
        print(settings_table(_settings_of_checkpoint(args.ckpt, args.overrides)))
    else:
        print(settings_table(load_settings(args.cfg, args.overrides)))


def _differences(sources: list[str], overrides: list[str]) -> str:
    from videogn.config.explain import differences_table

    first, second = (_settings_of(source, overrides) for source in sources)
    table = differences_table(first, second, sources)
    if not table:
        return "no key differs"
    marked = any(line.startswith("~") for line in table.splitlines()[1:])
    resolved = "\n~ auto, resolved: the same experiment" if marked else ""
    return f"{table}\n* makes another experiment{resolved}"


def _settings_of(source: str, overrides: list[str]) -> Settings:
    """Returns the settings of a config, a run folder or a checkpoint."""
    from videogn.config import find_config, load_settings

    if Path(source).is_dir():
        if not (Path(source) / "config.yaml").exists():
            raise ConfigError(f"{source} holds no config.yaml; give the folder of one run")
        return load_settings(Path(source) / "config.yaml", overrides)
    if Path(source).suffix in (".pt", ".safetensors"):
        return _settings_of_checkpoint(source, overrides)
    try:
        path = find_config(source)
    except ConfigError as error:
        raise ConfigError(f"{error}; a run's folder or a checkpoint will do, too") from error
    return load_settings(path, overrides)


def _settings_of_checkpoint(path: str, overrides: list[str]) -> Settings:
    from videogn.config import settings_from
    from videogn.trained import read_trained

    return settings_from(read_trained(path)["config"], overrides, where=path)
