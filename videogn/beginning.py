"""The beginning of a run: its folder, this process's alone, and the state that it goes on from."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from videogn import build
from videogn.config import Config, to_dict
from videogn.data.manifest import Manifest
from videogn.engine import checkpoint, distributed, durable
from videogn.engine.distributed import Ranks
from videogn.engine.lock import locked
from videogn.engine.progress import log_to_file
from videogn.engine.state import TrainState
from videogn.errors import ConfigError
from videogn.resume import folder_to_resume, require_usable, restore_state
from videogn.runs import claim_run_folder, has_checkpoints, rewind_records, write_run_files
from videogn.weights import load_weights

# What a run writes as it goes, beside its checkpoints.
_RECORDS = (
    *("metrics.jsonl", "bad_samples.jsonl", "diverged.json"),
    *("test.json", "predictions.csv"),
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Beginning:
    """What a run has before its next step.

    Attributes:
        config: resolved.
        folder: where it writes; no other process does.
        state: of the training.
        origin: of the state, in words.
        wandb_id: of the W&B run to go on with.
    """

    config: Config
    folder: Path
    state: TrainState
    origin: str
    wandb_id: str | None


def begin(
    config: Config,
    data: Mapping[str, Manifest],
    device: torch.device,
    ranks: Ranks,
    stack: ExitStack,
) -> Beginning:
    """Returns where a run begins: where the same experiment was broken off, or at its weights.

    A new folder is made last, once nothing is left to refuse.

    Args:
        config: as written.
        data: "train" and "val" videos.
        device: of this process.
        ranks: this process among the others.
        stack: until it is closed the folder is this process's, with a log in it.

    Raises:
        VideognError: see `errors`.
    """
    folder = distributed.on_main(lambda: _resumed_folder(config, stack))
    if folder and ranks.is_main:
        stack.enter_context(log_to_file(folder / "log.txt"))
    found = _checkpoint(config, folder)
    if found:
        resolved, state = restore_state(config, *found, data["train"], device, ranks.world)
        origin = f"going on with {found[0]}, step {state.step}"
    else:
        resolved, state, origin = _start(config, data["train"].classes, device)
    wandb_id = None  # one that goes on in a new folder has a curve of its own
    if folder and found:
        wandb_id = found[1]["wandb_id"]
        if config.resume != "auto":
            origin += f" (resume={config.resume} was for the job's first start)"
        if ranks.is_main:
            _rewind(folder, state)
    if not folder:
        folder = distributed.on_main(lambda: _new_folder(resolved, ranks.world, data, stack))
        if ranks.is_main:
            stack.enter_context(log_to_file(folder / "log.txt"))
    return Beginning(resolved, folder, state, origin, wandb_id)


def _resumed_folder(config: Config, stack: ExitStack) -> Path | None:
    """Returns the folder to go on in, which is this process's until `stack` is closed."""
    folder = folder_to_resume(config)
    if folder:
        _take(folder, stack)
    return folder


def _new_folder(config: Config, world: int, data: Mapping[str, Manifest], stack: ExitStack) -> Path:
    """Returns the folder of a new run with what describes it; as `_resumed_folder`."""
    run_dir, base = config.run_dir, Path("runs") / config.name
    folder = Path(run_dir) if run_dir else claim_run_folder(base)
    _take(folder, stack)
    if has_checkpoints(folder):
        raise ConfigError(f"run_dir={folder} holds a run by now; give the same command again")
    for name in _RECORDS:  # of a run that was killed before its first checkpoint
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "partial", ignore_errors=True)
    facts = {
        split: {"videos": len(manifest), "sha256": manifest.content_hash}
        for split, manifest in data.items()
    }
    write_run_files(folder, to_dict(config), world, facts)
    return folder


def _take(folder: Path, stack: ExitStack) -> None:
    """Locks a run folder, makes sure that it can be written to and sweeps it."""
    stack.enter_context(locked(folder))
    durable.require_writable(folder / "checkpoints")
    for place in (folder, folder / "checkpoints"):
        durable.remove_leftovers(place)


def _rewind(folder: Path, state: TrainState) -> None:
    """Drops the records of steps after the one that the run in `folder` goes on from."""
    rewind_records(folder / "metrics.jsonl", state.step, measured=not state.unmeasured)
    rewind_records(folder / "bad_samples.jsonl", state.step)


def _checkpoint(config: Config, folder: Path | None) -> tuple[Path, dict[str, Any]] | None:
    """Returns what to go on from: the newest of the folder, else the checkpoint asked for."""
    if folder:
        path = distributed.on_main(lambda: _newest(folder / "checkpoints"))
        return (path, checkpoint.load(path)) if path else None
    if config.resume in ("auto", "never"):
        return None
    path = Path(config.resume)
    contents = checkpoint.load(path)
    require_usable(path, contents)
    return path, contents


def _newest(folder: Path) -> Path | None:
    found = checkpoint.newest(folder, require_usable)
    if found is None:
        return None
    checkpoint.publish(found[0], "last.pt")  # a kill may have come between the two
    return found[0]


def _start(
    config: Config, classes: Sequence[str], device: torch.device
) -> tuple[Config, TrainState, str]:
    """Returns the resolved config, the state before the first step, and its weights in words."""
    model = build.build_model(config, len(classes))
    origin, mean, std = "init: random weights", None, None
    if config.model.init:
        report = load_weights(
            model,
            config.model.init,
            inflation=config.model.inflation,
            allow_norm_mismatch=config.model.init_allow_norm_mismatch,
            classes=classes,
        )
        origin, mean, std = f"init: {report}", report.mean, report.std
    resolved = build.resolve(config, len(classes), mean, std)
    return resolved, build.build_state(resolved, model, device), origin
