"""The scores of a test so far, on the disk: one broken off goes on where it stopped."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from videogn.engine import checkpoint, durable
from videogn.engine.distributed import Ranks, on_main
from videogn.engine.evaluate import ViewAverager
from videogn.errors import CheckpointError, RunInterruptedError, unusable_place

# Seconds of testing that a kill may cost. The scores of 19,761 videos in 400 classes are 63 MB.
SAVE_EVERY = 30.0

log = logging.getLogger(__name__)


class PartialScores:
    """Each rank's scores in a file of its own, for a test of any number of ranks to go on from.

    Args:
        folder: for these files alone; made when there are some.
        identity: what decides every score; files that state another are dropped.
        averager: that the scores are added to.
        ranks: this process among the others.
        interrupted: whether a signal asked this process to end.
    """

    def __init__(
        self,
        folder: Path,
        identity: str,
        averager: ViewAverager,
        ranks: Ranks,
        interrupted: Callable[[], bool],
    ) -> None:
        self.folder, self.identity, self.averager = folder, identity, averager
        self.rank, self.interrupted = ranks.rank, interrupted
        self._saved = time.monotonic()
        self._left = 0

    def restore(self) -> set[int]:
        """Returns the rows that are scored already, on every rank; rank 0 then has their scores."""
        return on_main(self._gather)

    def expect(self, num_videos: int) -> None:
        """Notes how many videos this rank will score."""
        self._left = num_videos

    def after_video(self) -> None:
        """Saves now and then and at the end of this rank's share; other ranks may take longer.

        Raises:
            RunInterruptedError: a signal came; the scores are saved.
        """
        self._left -= 1
        stop = self.interrupted()
        if stop or not self._left or time.monotonic() - self._saved >= SAVE_EVERY:
            self.save()
        if stop:
            raise RunInterruptedError(
                f"interrupted in the test, with {self._left} videos left to this process; its "
                "scores are saved, and the same command goes on from them"
            )

    def save(self) -> bool:
        """Writes this rank's scores; returns whether there was room: none is a warning."""
        contents = {"identity": self.identity, **self.averager.scored()}
        self._saved = time.monotonic()
        try:
            checkpoint.save(self._file(self.rank), contents)
        except OSError as error:
            log.warning("the scores so far are not saved: %s", unusable_place(error))
            return False
        return True

    def discard(self) -> None:
        """Removes all files, once the result is written; on rank 0."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _gather(self) -> set[int]:
        """Brings together what all ranks of before have saved, in one file."""
        files = sorted(self.folder.glob("rank_*.pt"))
        for path in files:
            contents = self._read(path)
            if contents:
                self.averager.restore(contents)
        rows = set(self.averager.scored()["rows"].tolist())
        if rows:
            log.info("going on with a test: %d videos are scored already", len(rows))
        if self.folder.is_dir():
            durable.remove_leftovers(self.folder)
        if rows and not self.save():
            return rows  # the files are all there is of them
        for path in files:
            if not rows or path != self._file(self.rank):
                path.unlink()
        return rows

    def _read(self, path: Path) -> dict[str, Any] | None:
        try:
            contents = checkpoint.load(path)
        except CheckpointError as error:
            log.warning("%s; its videos are scored again", error)
            return None
        return contents if contents.get("identity") == self.identity else None

    def _file(self, rank: int) -> Path:
        return self.folder / f"rank_{rank:05d}.pt"
