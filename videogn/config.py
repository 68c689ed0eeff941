"""The configuration: one typed dataclass per section, and yaml + overrides -> one checked Config.

`build.py` is the only module that sees a Config together with the parts it describes.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml
from omegaconf import MISSING, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from videogn.errors import ConfigError

CONFIG_DIR = Path(__file__).parent.parent / "configs"


@dataclass
class NormConfig:
    """Which positions share a mean and a variance."""

    kind: Literal["gn", "bn", "ln", "in", "brn", "frozen_bn", "sync_bn"] = "gn"
    num_groups: int = 32
    channels_per_group: int | None = None
    eps: float = 1e-5
    momentum: float = 0.1
    zero_init_residual: bool = True
    impl: Literal["auto", "aten", "triton"] = "auto"
    sub_batch: int | None = None
    brn_r_max: float = 1.5
    brn_d_max: float = 0.5
    brn_warmup_steps: int = 5000


@dataclass
class ModelConfig:
    """The network and the weights it starts from."""

    arch: Literal[
        "i3d_r50",
        "i3d_r101",
        "c2d_r50_nonlocal",
        "i3d_r50_8x8",
        "c2d_r50",
        "slow_r50",
        "i3d_r50_mmaction",
        "i3d_r50_stride1x1",
        "i3d_r14",
    ] = "i3d_r50"
    width: int = 64
    num_classes: int | str = "auto"
    dropout: float = 0.5
    stem_pool_padding: int = 0
    init: str | None = None
    inflation: Literal["mean", "center"] = "mean"
    init_allow_norm_mismatch: bool = False
    norm: NormConfig = field(default_factory=NormConfig)
    recompute: Literal["none", "norm", "block"] = "none"
    compile: Literal["none", "compile", "graphs"] = "none"


@dataclass
class DataConfig:
    """The videos, and how a clip is cut from one."""

    root: str = MISSING
    videos: str | None = None
    num_frames: int = MISSING
    frame_stride: int = MISSING
    short_side: list[int] = field(default_factory=lambda: [256, 320])
    crop_size: int = 224
    flip: float = 0.5
    mean: Any = "auto"
    std: Any = "auto"
    clips_per_decode: int = 1
    decoder: Literal["pyav", "decord", "torchcodec"] = "pyav"
    num_workers: int = 8
    timeout: float = 120.0
    max_bad_fraction: float = 0.01


@dataclass
class OptimConfig:
    """SGD and its schedule."""

    clips_per_gpu: int = MISSING
    accumulate: int = 1
    base_lr: float = MISSING
    base_batch: int = 64
    epochs: float = MISSING
    milestones: list[float] = field(default_factory=list)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    weight_decay_norm: float = 0.0
    amp: Literal["none", "bf16", "fp16"] = "none"
    clip_grad: float | None = None
    ema: float | None = None
    max_steps: int | None = None


@dataclass
class EvalConfig:
    """The test protocol, and the monitoring while training."""

    num_clips: int = 10
    clip_rule: Literal["nonlocal", "slowfast", "mmaction"] = "nonlocal"
    crops: Literal["full", "center", "three"] = "full"
    short_side: int = 256
    views_per_forward: int = 10
    monitor_every_epochs: float = 1.0
    precise_bn_batches: int = 200
    percentiles_every_epochs: float = 0.0


@dataclass
class WandbConfig:
    """The W&B mirror of the run's own records."""

    mode: Literal["auto", "online", "offline", "disabled"] = "auto"
    project: str = "videogn"
    group: str | None = None
    tags: list[str] = field(default_factory=list)
    predictions: int = 64
    artifacts: bool = False


@dataclass
class Config:
    """One experiment, complete."""

    name: str = MISSING
    seed: int = 0
    deterministic: bool = False
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    run_dir: str | None = None
    resume: str = "auto"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    log_every_steps: int = 20
    save_every_steps: int = 2000
    keep_checkpoints: int = 3
    rank_timeout: float = 600.0
    slurm_requeue: bool = False


# A change of one of these leaves the experiment what it was, so that a rerun may still resume it.
NOT_SCIENTIFIC = (
    "device",
    "run_dir",
    "resume",
    "data.decoder",
    "data.num_workers",
    "data.timeout",
    "model.norm.impl",
    "model.recompute",
    "model.compile",
    "eval.views_per_forward",
    "eval.monitor_every_epochs",
    "eval.percentiles_every_epochs",
    "wandb.mode",
    "wandb.project",
    "wandb.group",
    "wandb.tags",
    "wandb.predictions",
    "wandb.artifacts",
    "log_every_steps",
    "save_every_steps",
    "keep_checkpoints",
    "rank_timeout",
    "slurm_requeue",
)


# Ranges that a type cannot say.
_POSITIVE = (
    "model.width",
    "data.num_frames",
    "data.frame_stride",
    "data.crop_size",
    "data.clips_per_decode",
    "data.timeout",
    "optim.clips_per_gpu",
    "optim.accumulate",
    "optim.base_lr",
    "optim.base_batch",
    "optim.epochs",
    "optim.gamma",
    "eval.num_clips",
    "eval.short_side",
    "eval.views_per_forward",
    "eval.monitor_every_epochs",
    "model.norm.eps",
    "model.norm.num_groups",
    "log_every_steps",
    "save_every_steps",
    "keep_checkpoints",
    "rank_timeout",
)
_NOT_NEGATIVE = (
    "seed",
    "data.num_workers",
    "optim.warmup_epochs",
    "optim.weight_decay",
    "optim.weight_decay_norm",
    "model.stem_pool_padding",
    "model.norm.brn_d_max",
    "model.norm.brn_warmup_steps",
    "eval.precise_bn_batches",
    "eval.percentiles_every_epochs",
    "wandb.predictions",
)
_FRACTIONS = ("model.dropout", "data.flip", "data.max_bad_fraction", "optim.momentum")


def load_config(source: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Returns the checked Config of a yaml file with `dotted.key=value` overrides.

    A bare name is looked for in the working folder, then in `configs/`.

    Raises:
        ConfigError: one sentence naming the file or key, the value, and what was wanted.
    """
    path = find_config(source)
    try:
        values = OmegaConf.load(path)
    # OSError also for a file that is one number or date, of which OmegaConf makes nothing
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path} is not valid yaml: {_one_line(error)}") from error
    if not OmegaConf.is_dict(values) or not values:
        raise ConfigError(f"{path} holds no configuration: it must be a mapping of keys to values")
    return config_from(OmegaConf.to_container(values), overrides, where=str(path))


def config_from(values: Any, overrides: Sequence[str] = (), *, where: str = "config") -> Config:
    """Returns the checked Config of nested plain `values`, as of a checkpoint, with overrides.

    Raises:
        ConfigError: see `load_config`.
    """
    config = OmegaConf.structured(Config)
    for source, part in [(where, values), *((text, _parse_override(text)) for text in overrides)]:
        try:
            config = OmegaConf.merge(config, part)
        except OmegaConfBaseException as error:
            raise ConfigError(_explain(error, source, part)) from error
    try:
        missing = sorted(str(key) for key in OmegaConf.missing_keys(config))
        result = OmegaConf.to_object(config) if not missing else None
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {_one_line(error)}") from error
    if not isinstance(result, Config):
        raise ConfigError(f"{where} does not state {', '.join(missing)}; every experiment must")
    check(result)
    return result


def find_config(source: str | Path) -> Path:
    """Returns the file that `source` names: as a path, else in `configs/`.

    Raises:
        ConfigError: there is none; the message lists what `configs/` holds.
    """
    for path in (Path(source), CONFIG_DIR / source, CONFIG_DIR / f"{source}.yaml"):
        if path.is_file():
            return path
    known = ", ".join(sorted(path.name for path in CONFIG_DIR.glob("*.yaml")))
    raise ConfigError(f"config {str(source)!r} is neither a file nor one of configs/: {known}")


def to_dict(config: Config) -> dict[str, Any]:
    """Returns the configuration as nested plain values, for yaml, json and checkpoints."""
    return asdict(config)


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values as one level of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= (
            flatten(value, f"{prefix}{key}.")
            if isinstance(value, dict)
            else {f"{prefix}{key}": value}
        )
    return flat


def scientific(values: dict[str, Any]) -> dict[str, Any]:
    """Returns the dotted keys and values that decide what an experiment computes."""
    return {key: value for key, value in flatten(values).items() if key not in NOT_SCIENTIFIC}


def check(config: Config) -> None:
    """Checks what types cannot say: ranges, and values that must fit together.

    Raises:
        ConfigError: naming the key, the value and what was wanted.
    """
    for key, value in flatten(to_dict(config)).items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            raise ConfigError(f"{key}={value} is not a finite number")
    _check_ranges(config)
    _check_norm(config.model)
    _check_sub_batch(config)
    data = config.data
    _require(
        len(data.short_side) == 2 and data.short_side[0] <= data.short_side[1],
        "data.short_side",
        data.short_side,
        "two numbers of pixels [from, to], from <= to",
    )
    _require(
        config.optim.clips_per_gpu % data.clips_per_decode == 0,
        "data.clips_per_decode",
        data.clips_per_decode,
        f"a divisor of optim.clips_per_gpu={config.optim.clips_per_gpu}",
    )
    for key, smallest in (
        ("data.short_side", min(data.short_side)),
        ("eval.short_side", config.eval.short_side),
    ):
        wanted = f"at least data.crop_size={data.crop_size}"
        _require(smallest >= data.crop_size, key, smallest, wanted)
    for key, value in (("data.mean", data.mean), ("data.std", data.std)):
        _require(_is_colour(value), key, value, "auto, or three numbers (R, G, B) from 0 to 1")
    _require(isinstance(data.std, str) or min(data.std) > 0, "data.std", data.std, "above zero")
    milestones = config.optim.milestones
    increasing = milestones == sorted(milestones) and all(at > 0 for at in milestones)
    _require(increasing, "optim.milestones", milestones, "increasing epochs, above zero")
    if config.optim.nesterov:
        _require(
            config.optim.momentum > 0, "optim.momentum", 0, "above zero, or optim.nesterov=false"
        )
    plain = Path(config.name).name == config.name and config.name != ".."
    _require(plain, "name", config.name, "a name for a folder under runs/, without slashes")
    _require(config.seed < 2**63, "seed", config.seed, "a number below 2^63")
    if isinstance(config.model.num_classes, str):
        _require(
            config.model.num_classes == "auto",
            "model.num_classes",
            config.model.num_classes,
            "auto (from classes.txt) or a number",
        )


def _check_ranges(config: Config) -> None:
    flat = flatten(to_dict(config))
    optional = [
        ("model.norm.channels_per_group", 1),
        ("model.norm.sub_batch", 1),
        ("optim.max_steps", 1),
    ]
    for key in _POSITIVE:
        _require(flat[key] > 0, key, flat[key], "a number above zero")
    for key in _NOT_NEGATIVE:
        _require(flat[key] >= 0, key, flat[key], "zero or more")
    for key in _FRACTIONS:
        _require(0 <= flat[key] <= 1, key, flat[key], "a number from 0 to 1")
    for key, least in optional:
        _require(flat[key] is None or flat[key] >= least, key, flat[key], f"null or >= {least}")
    r_max = flat["model.norm.brn_r_max"]
    _require(r_max >= 1, "model.norm.brn_r_max", r_max, "1 or more")
    padding = flat["model.stem_pool_padding"]
    _require(padding <= 1, "model.stem_pool_padding", padding, "0 or 1")
    classes = config.model.num_classes
    _require(isinstance(classes, str) or classes > 0, "model.num_classes", classes, "above zero")


def _check_norm(model: ModelConfig) -> None:
    """Every layer has `width` times a power of two channels, so `width` decides."""
    norm = model.norm
    if norm.kind != "gn":
        return
    if norm.channels_per_group is not None:
        key, value = "model.norm.channels_per_group", norm.channels_per_group
    else:
        key, value = "model.norm.num_groups", norm.num_groups
    wanted = f"a divisor of model.width={model.width}, the channels of the first layer"
    _require(model.width % value == 0, key, value, wanted)


def _check_sub_batch(config: Config) -> None:
    key, size, kind = "model.norm.sub_batch", config.model.norm.sub_batch, config.model.norm.kind
    if size is None:
        return
    _require(kind == "bn", key, size, f"null with model.norm.kind={kind}; it is for bn")
    clips = config.optim.clips_per_gpu
    _require(clips % size == 0, key, size, f"a divisor of optim.clips_per_gpu={clips}")


def _require(condition: bool, key: str, value: Any, wanted: str) -> None:
    if not condition:
        raise ConfigError(f"{key}={value}: wanted {wanted}")


def _is_colour(value: Any) -> bool:
    if isinstance(value, str):
        return value == "auto"
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(x, int | float) and not isinstance(x, bool) for x in value)
        and all(0 <= x <= 1 for x in value)
    )


def _parse_override(text: str) -> Any:
    key, equals, value = text.partition("=")
    if not equals or not key or key.startswith("-"):
        raise ConfigError(f"{text!r} is not an override; write dotted.key=value")
    if value.strip() == MISSING:
        raise ConfigError(f"{text!r} gives no value; write dotted.key=value")
    try:
        return OmegaConf.from_dotlist([f"{key}={_quoted(value)}" if _is_text(key) else text])
    except (yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"override {text!r} cannot be read: {_one_line(error)}") from error


def _is_text(key: str) -> bool:
    """Returns whether `key` takes any text, which must not be read as a number, date or bool."""
    kind: Any = Config
    for part in key.split("."):
        kind = get_type_hints(kind).get(part) if is_dataclass(kind) else None
    return kind in (str, str | None)


def _quoted(value: str) -> str:
    """Returns `value` so that yaml reads it as the text it is; null, quotes and ${} stay theirs."""
    if value in ("", "null", "~") or value[0] in "\"'[{" or "${" in value:
        return value
    return "'" + value.replace("'", "''") + "'"


def _explain(error: OmegaConfBaseException, source: str, part: Any) -> str:
    """Returns one sentence for a merge that failed: where, which key, why, and the nearest key."""
    key = str(getattr(error, "full_key", "") or "")
    reason = str(error).splitlines()[0]
    if "not in" in reason and key:
        return f"{source}: there is no key {key}{_nearest(key)}"
    if not key:  # OmegaConf names no key when a value stands where a section belongs
        part = OmegaConf.to_container(part) if OmegaConf.is_config(part) else part
        given = flatten(part) if isinstance(part, dict) else {}
        wrong = [name for name in given if name in _sections()]
        return f"{source}: {', '.join(wrong) or 'the whole'} is a section of keys, not a value"
    return f"{source}: {key}: {reason}"


def _nearest(key: str) -> str:
    known = [*flatten(asdict(Config())), *_sections()]
    inside = key.rpartition(".")[0]
    known = [name for name in known if name != inside]  # that much of the key was right
    found = difflib.get_close_matches(key, known, n=1)
    if not found:  # the last part may be nearly right and its section wrong
        lasts = {name.rpartition(".")[2]: name for name in known}
        found = [lasts[x] for x in difflib.get_close_matches(key.rpartition(".")[2], lasts, n=1)]
    return f"; did you mean {found[0]}?" if found else ""


def _sections() -> list[str]:
    """Returns the dotted names of all sections."""
    keys = flatten(asdict(Config()))
    return sorted({key[:i] for key in keys for i, letter in enumerate(key) if letter == "."})


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
