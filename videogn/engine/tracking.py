"""The record of a run: `metrics.jsonl`, always complete, and W&B as its mirror."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class Tracker:
    """Writes records to `metrics.jsonl` and mirrors them to W&B as long as that works.

    Nothing that W&B does reaches the training: whatever it raises ends the mirror with one
    warning. Made on rank 0 only; elsewhere use `NullTracker`.

    Args:
        folder: of the run.
        mode: "auto" is online for whoever is logged in and offline otherwise, never a prompt.
        project: W&B's.
        config: nested plain values, stored with the W&B run.
        wandb_id: of the run to go on with; a new one otherwise.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: str,
        project: str,
        config: Mapping[str, Any],
        wandb_id: str | None = None,
    ) -> None:
        self.path = folder / "metrics.jsonl"
        self.file = self.path.open("a", encoding="utf-8", buffering=1)  # a line at a time
        self.wandb_id = wandb_id
        self.run: Any = None
        if mode != "disabled":
            self._mirror(self._start, folder, mode, project, config)

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one record: plain values, with at least `step`, `epoch` and `split`."""
        self.file.write(json.dumps(dict(record)) + "\n")
        # No step= : after a resume W&B counts anew; curves go over our own step and epoch.
        self._mirror(lambda: self.run and self.run.log(_prefixed(record)))

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Puts final numbers into the W&B run's summary; the record of them is `test.json`."""
        self._mirror(lambda: self.run and self.run.summary.update(dict(values)))

    def close(self) -> None:
        """Ends the record and the mirror."""
        self.file.close()
        self._mirror(lambda: self.run and self.run.finish())

    def _start(self, folder: Path, mode: str, project: str, config: Mapping[str, Any]) -> None:
        import wandb

        if mode == "auto":
            # Without asking the server whether the key is right: that may take minutes, or fail.
            mode = os.environ.get("WANDB_MODE") or _mode_of_login(wandb)
        self.run = wandb.init(
            project=project,
            dir=folder,
            id=self.wandb_id,
            resume="allow",
            mode=mode,  # type: ignore[arg-type]
            config=dict(config),
            name=f"{folder.parent.name}/{folder.name}",
            settings=wandb.Settings(
                silent=True, init_timeout=30, disable_git=True, save_code=False
            ),
        )
        self.wandb_id = self.run.id
        self.run.define_metric("train/*", step_metric="step")
        self.run.define_metric("val/*", step_metric="epoch")
        if mode == "offline":
            log.info("W&B: offline; upload later with: wandb sync %s", Path(self.run.dir).parent)

    def _mirror(self, action: Any, *args: Any) -> None:
        try:
            action(*args)
        except Exception as error:  # noqa: BLE001  a mirror must never end a training
            reason = " ".join(str(error).split())[:200]
            log.warning("W&B gave up (%s: %s); metrics.jsonl goes on", type(error).__name__, reason)
            self.run = None


class NullTracker:
    """The tracker of every rank but the first: does nothing."""

    wandb_id: str | None = None

    def log(self, record: Mapping[str, Any]) -> None:
        """Does nothing."""

    def summarize(self, values: Mapping[str, Any]) -> None:
        """Does nothing."""

    def close(self) -> None:
        """Does nothing."""


def _mode_of_login(wandb: Any) -> str:
    return "online" if wandb.login(prompt=False, verify=False) else "offline"


def _prefixed(record: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a record with its split before each measured value, as W&B groups panels."""
    plain = ("step", "epoch", "split")
    split = record.get("split", "train")
    return {
        key if key in plain or "/" in key else f"{split}/{key}": value
        for key, value in record.items()
    }
