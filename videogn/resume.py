"""Going on with a run: which folder, from which checkpoint, and whether it is the same training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn import build, restarts
from videogn.config import Config, to_dict
from videogn.data.manifest import Manifest
from videogn.engine.schedule import Schedule
from videogn.engine.state import TrainState
from videogn.errors import CheckpointError, ConfigError
from videogn.restoring import require_same_classes, restore_model
from videogn.runs import (
    begun_by,
    differing_keys,
    find_resumable,
    has_checkpoints,
    stored_config,
)

# What to change for each part of `stream_of`.
_TO_MATCH = {
    "num_samples": "change data.root",
    "global_batch": "change optim.clips_per_gpu, optim.accumulate or the number of processes",
    "clips_per_decode": "change data.clips_per_decode",
    "seed": "change seed",
    "videos": "change the paths and labels of train.csv",
}
_NEEDED = (
    *("model", "optimizer", "scaler", "step", "config"),
    *("classes", "fingerprint", "stream", "metrics"),
)


def folder_to_resume(config: Config) -> Path | None:
    """Returns the folder of a run of the same experiment to go on with, None for a new one.

    What `resume` says other than auto holds for the first start of a job: started again by
    torchrun or Slurm, it goes on with the run that it began.

    Raises:
        ConfigError: `run_dir` holds a run that must not be gone on with.
    """
    is_auto = config.resume == "auto"
    job = restarts.job() if restarts.is_restart() and not is_auto else None
    if not config.run_dir:
        base = Path("runs") / config.name
        return find_resumable(base, to_dict(config), job=job) if is_auto or job else None
    folder = Path(config.run_dir)
    if not has_checkpoints(folder):
        return None
    if not is_auto and (job is None or job != begun_by(folder)):
        raise ConfigError(f"run_dir={folder} holds a run already; choose another, or resume=auto")
    differ = differing_keys(to_dict(config), stored_config(folder) or {})
    if differ:
        raise ConfigError(
            f"run_dir={folder} holds a run of another experiment ({', '.join(differ[:5])} differ); "
            "choose another folder"
        )
    return folder


def restore_state(
    config: Config,
    path: Path,
    contents: Mapping[str, Any],
    train_data: Manifest,
    device: torch.device,
    world: int,
) -> tuple[Config, TrainState]:
    """Returns the resolved config, and the state of a checkpoint, everything as it was.

    Args:
        config: of the run to go on, as written.
        path: the checkpoint, for messages.
        contents: of it.
        train_data: that the run goes on with.
        device: of this process.
        world: number of processes.

    Raises:
        CheckpointError: it is of another network, other classes, or another order of the data.
    """
    stored = contents["config"]["data"]
    config = build.resolve(config, len(contents["classes"]), stored["mean"], stored["std"])
    model = restore_model(config, contents, path, to_train=True)
    require_same_classes(contents["classes"], train_data, path)
    schedule = build.build_schedule(config, len(train_data), world)
    require_same_stream(stream_of(config, schedule, train_data), contents, path)
    state = build.build_state(config, model, device)
    # The momentum buffers are the checkpoint's; the recipe is the config's, which resume=path
    # may have changed.
    recipe = {"param_groups": state.optimizer.state_dict()["param_groups"]}
    state.optimizer.load_state_dict(contents["optimizer"] | recipe)
    state.scaler.load_state_dict(contents["scaler"])
    state.step, metrics = contents["step"], contents["metrics"]
    for group in state.optimizer.param_groups:
        group["lr"] = schedule.lr(max(state.step - 1, 0))  # of the last step, as it was saved
    state.best_error, state.losses = metrics["best_error"], list(metrics["losses"])
    state.overflows = metrics.get("overflows", 0)
    state.unmeasured = metrics.get("unmeasured", False)
    if state.ema and contents["ema"]:
        state.ema.load_state_dict(contents["ema"])
    return config, state


def require_usable(path: Path, contents: Mapping[str, Any]) -> None:
    """Raises CheckpointError unless a checkpoint holds all that training goes on from."""
    missing = [key for key in _NEEDED if key not in contents]
    if missing:
        raise CheckpointError(f"{path} cannot be gone on from: it lacks {', '.join(missing)}")
    bad = not_finite(contents)
    if bad:
        raise CheckpointError(
            f"{path} cannot be gone on from: {len(bad)} tensors in it are not finite, {bad[0]} "
            "first; use an older one"
        )
    if contents["step"] and _lacks_momentum(contents):
        raise CheckpointError(
            f"{path} cannot be gone on from: it lacks the momentum of some parameters; to start "
            f"from its weights, train with model.init={path}"
        )


def _lacks_momentum(contents: Mapping[str, Any]) -> bool:
    groups = contents["optimizer"].get("param_groups", [])
    wanted = sum(len(group["params"]) for group in groups if group["momentum"])
    states = contents["optimizer"].get("state", {}).values()
    have = sum("momentum_buffer" in state for state in states)
    skipping = not have and contents["scaler"]  # fp16 skips the first steps while it finds a scale
    return not groups or (have < wanted and not skipping)


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


def stream_of(config: Config, schedule: Schedule, train_data: Manifest) -> dict[str, int | str]:
    """Returns what must stay the same for a step to mean the same place in the data."""
    return {
        "num_samples": schedule.num_samples,
        "global_batch": schedule.global_batch,
        "clips_per_decode": config.data.clips_per_decode,
        "seed": config.seed,
        "videos": train_data.content_hash,
    }


def require_same_stream(
    stream: Mapping[str, int | str], contents: Mapping[str, Any], path: Path
) -> None:
    """Raises CheckpointError unless a step means the same place in the data as before.

    What a checkpoint of an earlier version does not state is taken to be the same.
    """
    for key, value in stream.items():
        had = contents["stream"].get(key, value)
        if had != value:
            raise CheckpointError(
                f"{path} was trained with {key}={had}, not {value}: its steps would mean other "
                f"places in the data; {_TO_MATCH[key]} to match, or start anew with resume=never"
            )
