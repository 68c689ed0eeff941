"""The checkpoints of a run: what they hold, which are kept, and what a full disk does."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videogn import build
from videogn.config import Config, to_dict
from videogn.data.manifest import Manifest
from videogn.engine import checkpoint, distributed, durable, watchdog
from videogn.engine.schedule import Schedule
from videogn.engine.state import TrainState
from videogn.engine.tracking import NullTracker, Tracker
from videogn.errors import TrainingDivergedError, unusable_place
from videogn.model.i3d import I3DResNet
from videogn.resume import not_finite, stream_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saver:
    """Keeps the states of a run; called on every rank, it writes on rank 0.

    Attributes:
        folder: of the run.
        config: resolved.
        schedule: of the training.
        train_data: of the training.
        tracker: whose W&B run a resumed one goes on with.
    """

    folder: Path
    config: Config
    schedule: Schedule
    train_data: Manifest
    tracker: Tracker | NullTracker

    def save_step(self, state: TrainState) -> OSError | None:
        """Keeps a state to go on from; returns what was in the way, None if nothing was.

        Raises:
            TrainingDivergedError: the weights are of no use; those saved before are as they were.
        """
        return self._save(state, self._write_step)

    def save_best(self, state: TrainState) -> OSError | None:
        """Keeps a state for users, in the place of the one before; else as `save_step`."""
        return self._save(state, self._write_best)

    def _save(
        self, state: TrainState, write: Callable[[Mapping[str, Any]], None]
    ) -> OSError | None:
        watchdog.now(f"the saving of step {state.step}")  # monitoring has ended its own

        def write_finite() -> None:
            contents = self.contents(state)
            _require_finite(contents)
            write(contents)

        try:
            distributed.on_main(write_finite)
        except OSError as error:
            log.warning("step %d is not saved: %s", state.step, unusable_place(error))
            return error
        return None

    def _write_step(self, contents: Mapping[str, Any]) -> None:
        # The records up to here must survive what the checkpoint survives.
        durable.sync_file(self.folder / "metrics.jsonl")
        folder = self.folder / "checkpoints"
        path = checkpoint.step_file(folder, contents["step"])
        checkpoint.save(path, contents)
        with only_a_warning(f"last.pt is not step {contents['step']} yet"):
            checkpoint.publish(path, "last.pt")
        with only_a_warning("older checkpoints are not removed"):
            checkpoint.prune(folder, self.config.keep_checkpoints, path)

    def _write_best(self, contents: Mapping[str, Any]) -> None:
        checkpoint.save(self.folder / "checkpoints" / "best.pt", contents)

    def contents(self, state: TrainState) -> dict[str, Any]:
        """Returns what a checkpoint of a state holds; `resume.restore_state` is its inverse."""
        model = state.model
        assert isinstance(model, I3DResNet)
        return {
            "model": model.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "ema": state.ema.state_dict() if state.ema else None,
            "step": state.step,
            "epoch": self.schedule.epoch(state.step),
            "config": to_dict(self.config),
            "classes": list(self.train_data.classes),
            "fingerprint": build.fingerprint(self.config, model),
            "stream": stream_of(self.config, self.schedule, self.train_data),
            "metrics": {
                "best_error": state.best_error,
                "losses": list(state.losses),
                "overflows": state.overflows,
                "unmeasured": state.unmeasured,
            },
            "wandb_id": self.tracker.wandb_id,
        }


@contextmanager
def only_a_warning(what: str) -> Iterator[None]:
    """Says `what` if the disk fails within the context, and no more."""
    try:
        yield
    except OSError as error:
        log.warning("%s: %s", what, unusable_place(error))


def _require_finite(contents: Mapping[str, Any]) -> None:
    """Raises TrainingDivergedError for weights, statistics or momentum with NaN or infinity."""
    bad = not_finite(contents)
    if bad:
        raise TrainingDivergedError(
            f"{len(bad)} tensors of step {contents['step']} are not finite, {bad[0]} first; it is "
            "not saved; lower optim.base_lr"
        )
