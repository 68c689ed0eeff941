"""A file and overrides -> one checked Config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

from videogn.config.checks import problems
from videogn.config.keys import keys, kinds
from videogn.config.sections import Config
from videogn.config.settings import (
    Setting,
    Settings,
    defaults,
    of_file,
    of_override,
    of_values,
    refusal,
)
from videogn.errors import ConfigError
from videogn.nearest import nearest

CONFIG_DIR = Path(__file__).parents[2] / "configs"


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Returns the checked Config of a yaml file with `dotted.key=value` overrides.

    A bare name is looked for in the working folder, then in `configs/`.

    Raises:
        ConfigError: one sentence naming the file or key, the value, and what was wanted.
    """
    return config_of(load_settings(source, overrides))


def load_settings(source: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Returns what `load_config` makes its Config of: each key's value and where it came from.

    Raises:
        ConfigError: a key is unknown, of a wrong type, or missing.
    """
    path = find_config(source)
    return _layered(of_file(path), overrides, where=str(path))


def config_from(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config"
) -> Config:
    """Returns the checked Config of nested plain `values`, as of a checkpoint, with overrides.

    Raises:
        ConfigError: see `load_config`.
    """
    return config_of(settings_from(values, overrides, where=where))


def settings_from(
    values: Mapping[str, Any], overrides: Sequence[str] = (), *, where: str = "config"
) -> Settings:
    """Returns what `config_from` makes its Config of.

    Raises:
        ConfigError: see `load_settings`.
    """
    return _layered(of_values(values, lambda _: where), overrides, where=where)


def config_of(settings: Settings) -> Config:
    """Returns the checked Config of complete settings.

    Raises:
        ConfigError: values do not fit together.
    """
    config = _built(Config, "", settings)
    for path, value, wanted in problems(config):
        raise refusal(Setting(value, settings[path].origin), path, wanted)
    return config


def find_config(source: str | Path) -> Path:
    """Returns the file that `source` names: as a path, else in `configs/`.

    Raises:
        ConfigError: there is none; the message has the nearest name, or those in `configs/`.
    """
    for path in (Path(source), CONFIG_DIR / source, CONFIG_DIR / f"{source}.yaml"):
        if path.is_file():
            return path
    if Path(source).is_dir():
        run = f"{Path(source) / 'config.yaml'}"
        raise ConfigError(f"config {str(source)!r} is a folder; give a file, as {run} of a run")
    near = _nearest_config(Path(source))
    names = ", ".join(sorted(path.name for path in CONFIG_DIR.glob("*.yaml")))
    said = f"; did you mean {near}?" if near else f": {names}"
    raise ConfigError(f"config {str(source)!r} is neither a file nor one of configs/{said}")


def _nearest_config(source: Path) -> Path | None:
    """Returns the file whose name most resembles `source`, in its folder or there in configs/."""
    folders = (source.parent, CONFIG_DIR / source.parent)
    names = {path.stem: path.name for folder in folders for path in folder.glob("*.y*ml")}
    found = nearest(source.stem, names)  # the suffix is no likeness
    return source.with_name(names[found]) if found else None


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the configuration as nested plain values, for yaml, json and checkpoints."""
    return asdict(config)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        inner = flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat |= {f"{prefix}{key}": value} if inner is None else inner
    return flat


def scientific(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the dotted keys and values that decide what an experiment computes.

    A key that is not known, as one of a run by a later version, counts.
    """
    known = keys()
    flat = flatten(values)
    return {path: flat[path] for path in flat if path not in known or known[path].scientific}


def _layered(stated: Settings, overrides: Sequence[str], *, where: str) -> Settings:
    settings = defaults() | stated
    for text in overrides:
        settings |= of_override(text)
    missing = sorted(keys().keys() - settings.keys())
    if missing:
        raise ConfigError(f"{where} does not state {', '.join(missing)}; every experiment must")
    return settings


def _built(section: type, path: str, settings: Settings) -> Any:
    """Returns the dataclass of a section, filled."""
    values: dict[str, Any] = {}
    for one in fields(section):
        inner = f"{path}.{one.name}".lstrip(".")
        kind = kinds(section)[one.name]
        values[one.name] = (
            _built(kind, inner, settings)  # type: ignore[arg-type]
            if is_dataclass(kind)
            else settings[inner].value
        )
    return section(**values)
