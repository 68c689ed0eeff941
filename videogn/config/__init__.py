"""The configuration: typed dataclasses, and yaml + overrides -> one checked Config.

`videogn.build` is the only module that sees a Config together with the parts it describes.

    sections      every key: type, default, range, meaning
    keys          the same as data
    strict_yaml   text -> plain values
    typed         plain values -> values of a key's type
    settings      layers of values, each with where it came from
    checks        what types cannot say
    loading       the way from a file to a Config
    explain       keys and settings for a reader
    schema        keys for an editor
"""

from videogn.config.loading import (
    CONFIG_DIR,
    config_from,
    config_of,
    find_config,
    flatten,
    load_config,
    load_settings,
    scientific,
    settings_from,
    to_dict,
)
from videogn.config.sections import (
    Config,
    DataConfig,
    EvalConfig,
    ModelConfig,
    NormConfig,
    OptimConfig,
    WandbConfig,
)

__all__ = [
    "CONFIG_DIR",
    "Config",
    "DataConfig",
    "EvalConfig",
    "ModelConfig",
    "NormConfig",
    "OptimConfig",
    "WandbConfig",
    "config_from",
    "config_of",
    "find_config",
    "flatten",
    "load_config",
    "load_settings",
    "scientific",
    "settings_from",
    "to_dict",
]
