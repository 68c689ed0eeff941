"""What a run says of itself: to `metrics.jsonl`, always complete, and to W&B as its mirror."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from videogn.engine.record_file import RecordFile
from videogn.engine.wandb_mirror import WandbMirror


class Tracker:
    """Writes records to `metrics.jsonl` of a run folder and mirrors them; to be used in a `with`.

    Made on rank 0 only; elsewhere use `NullTracker`.

    Args:
        folder: of the run.
        mirror: a W&B run, which may fail at any time.
    """

    def __init__(self, folder: Path, mirror: WandbMirror) -> None:
        self.records, self.mirror = RecordFile(folder / "metrics.jsonl"), mirror

    @property
    def wandb_id(self) -> str | None:
        """The id to go on with after a resume."""
        return self.mirror.wandb_id

    def log(self, record: Mapping[str, Any]) -> None:
        """Appends one record: plain values, with at least `step`, `epoch` and `split`."""
        self.keep(record)
        self.mirror.log(record)

    def keep(self, record: Mapping[str, Any]) -> None:
        """Appends one record to the file alone: it is no point of a curve."""
        self.records.append(record)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Ends the record and the mirror, which says that the run failed if it did."""
        self.records.close()
        self.mirror.__exit__(kind, error, traceback)


class NullTracker:
    """The tracker of every rank but the first: does nothing."""

    mirror = None
    wandb_id: str | None = None

    def log(self, record: Mapping[str, Any]) -> None:
        """Does nothing."""

    def keep(self, record: Mapping[str, Any]) -> None:
        """Does nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Does nothing."""
