"""The training videos that were replaced: counted, listed once each, and not too many."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from videogn.data.dataset import BadVideo
from videogn.engine import distributed, durable
from videogn.errors import DataError, unusable_place
from videogn.runs import read_records

log = logging.getLogger(__name__)


class BadSamples:
    """The same count on every rank, and one list of it, which rank 0 writes.

    Args:
        path: of the list, one json object a video; what it holds of this run counts.
        num_videos: of the training data.
        max_fraction: share of them that may be bad.
        is_main: whether this is rank 0.
    """

    def __init__(
        self, path: Path, num_videos: int, *, max_fraction: float, is_main: bool = True
    ) -> None:
        self.path, self.num_videos, self.max_fraction = path, num_videos, max_fraction
        self.is_main = is_main
        self.rows: set[int] = set(distributed.on_main(self._listed))

    def _listed(self) -> list[int]:
        return [record["row"] for record in read_records(self.path)] if self.path.is_file() else []

    def note(self, bad: Sequence[BadVideo], step: int) -> None:
        """Lists the new ones among the `bad` of a step, which every rank is told of.

        Raises:
            DataError: too large a share of the data is bad.
        """
        for video in bad:
            if video.row in self.rows:
                continue
            self.rows.add(video.row)
            if self.is_main:
                self._list(video, step)
        if len(self.rows) > self.max_fraction * self.num_videos:
            raise DataError(
                f"{len(self.rows)} of {self.num_videos} training videos cannot be read, more than "
                f"data.max_bad_fraction={self.max_fraction} allows; see {self.path}; once "
                "they can be read, resume=auto goes on from the last checkpoint"
            )

    def _list(self, video: BadVideo, step: int) -> None:
        log.warning("bad video, another takes its place: %s: %s", video.path, video.reason)
        try:
            durable.append_line(self.path, json.dumps({"step": step, **video._asdict()}))
        except OSError as error:  # the list is not worth the run
            log.warning("the bad video is not listed: %s", unusable_place(error))
