"""Going on with a run: which folder, from which checkpoint, and whether it is the same training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn import build
from videogn.config import Config, to_dict
from videogn.engine.schedule import Schedule
from videogn.errors import CheckpointError, ConfigError
from videogn.model.i3d import I3DResNet, complete_fingerprint
from videogn.runs import differing_keys, find_resumable, has_checkpoints, read_config

_NEEDED = ("model", "optimizer", "scaler", "step", "config", "classes", "fingerprint", "stream")


def folder_to_resume(config: Config) -> Path | None:
    """Returns the folder of a run of the same experiment to go on with, None for a new one.

    Raises:
        ConfigError: `run_dir` holds a run that must not be gone on with.
    """
    if not config.run_dir:
        base = Path("runs") / config.name
        return find_resumable(base, to_dict(config)) if config.resume == "auto" else None
    folder = Path(config.run_dir)
    if not has_checkpoints(folder):
        return None
    if config.resume != "auto":
        raise ConfigError(f"run_dir={folder} holds a run already; choose another, or resume=auto")
    differ = differing_keys(to_dict(config), read_config(folder) or {})
    if differ:
        raise ConfigError(
            f"run_dir={folder} holds a run of another experiment ({', '.join(differ[:5])} differ); "
            "choose another folder"
        )
    return folder


def require_usable(path: Path, contents: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless a checkpoint holds all that training goes on from."""
    missing = [key for key in (*_NEEDED, "metrics") if key not in contents]
    if missing:
        raise CheckpointError(f"{path} cannot be gone on from: it lacks {', '.join(missing)}")
    bad = not_finite(contents)
    if bad:
        raise CheckpointError(
            f"{path} cannot be gone on from: {len(bad)} tensors in it are not finite, {bad[0]} "
            "first; use an older one"
        )
    optimizer = contents["optimizer"]
    wanted = sum(len(group["params"]) for group in optimizer["param_groups"])
    have = sum("momentum_buffer" in state for state in optimizer["state"].values())
    has_momentum = any(group["momentum"] for group in optimizer["param_groups"])
    skipping = not have and contents["scaler"]  # fp16 skips the first steps while it finds a scale
    if contents["step"] and has_momentum and have < wanted and not skipping:
        raise CheckpointError(
            f"{path} cannot be gone on from: it holds the momentum of {have} of {wanted} "
            f"parameters; to start from its weights, train with model.init={path}"
        )


def not_finite(contents: Mapping[str, Any]) -> list[str]:
    """Returns the names of the weights, statistics and momentum that hold NaN or infinity."""
    parts = {key: contents[key] for key in ("model", "optimizer", "ema") if contents.get(key)}
    return [
        name
        for name, tensor in _tensors("", parts)
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())
    ]


def _tensors(prefix: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield prefix, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(f"{prefix}.{key}" if prefix else str(key), item)


def require_same_function(
    config: Config, model: I3DResNet, contents: Mapping[str, Any], path: Path
) -> None:
    """Raises CheckpointError unless the network and its input are those of a checkpoint."""
    have = complete_fingerprint(contents["fingerprint"])
    wanted = build.fingerprint(config, model)
    differ = [key for key in wanted if have.get(key) != wanted[key]]
    differ.sort(key="window".__eq__)  # last: it follows from others, and is no key of a config
    if differ:
        raise CheckpointError(
            f"{path} was trained with {differ[0]}={have.get(differ[0])}, not "
            f"{wanted[differ[0]]}; start anew with resume=never"
        )


def stream_of(config: Config, schedule: Schedule) -> dict[str, int]:
    """Returns what must stay the same for a step to mean the same place in the data."""
    return {
        "num_samples": schedule.num_samples,
        "global_batch": schedule.global_batch,
        "clips_per_decode": config.data.clips_per_decode,
    }


def require_same_stream(
    config: Config, schedule: Schedule, contents: Mapping[str, Any], path: Path
) -> None:
    """Raises CheckpointError unless a step means the same place in the data as before."""
    for key, value in stream_of(config, schedule).items():
        if contents["stream"][key] != value:
            raise CheckpointError(
                f"{path} was trained with {key}={contents['stream'][key]}, not {value}: its "
                "steps would mean other places in the data; change data.clips_per_decode, "
                "optim.accumulate or the number of processes to match, or start anew with "
                "resume=never"
            )
