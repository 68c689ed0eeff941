"""A table of predictions to look through: the worst mistakes, and a fair sample of the rest."""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from videogn.data.decode import VideoReader
from videogn.errors import VideoDecodeError
from videogn.report.clips import write_clip

COLUMNS = ("id", "video", "truth", "predicted", "p(truth)", "top 5", "correct")

log = logging.getLogger(__name__)

# A row of `predictions.csv`.
Row = dict[str, str]


def read_rows(path: Path) -> list[Row]:
    """Returns the rows of a `predictions.csv` that a test has just written."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def choose(rows: Sequence[Row], limit: int) -> list[Row]:
    """Returns at most `limit` rows: first the worst, up to half, then an even sample of the rest.

    The worst are wrong with the highest probability. A video that could not be read is no mistake
    of the network's and comes with the rest.
    """
    wrong = [row for row in rows if row["correct"] == "0" and not row["failed"]]
    worst = sorted(wrong, key=lambda row: (-float(row["probability"]), row["path"]))
    worst = worst[: (limit + 1) // 2]
    taken = {row["path"] for row in worst}
    rest = [row for row in rows if row["path"] not in taken]
    places = min(limit - len(worst), len(rest))
    return worst + [rest[i * len(rest) // places] for i in range(places)]


def with_clips(
    rows: Sequence[Row], open_video: Callable[[str], VideoReader], folder: Path
) -> list[list[Any]]:
    """Returns the cells of `COLUMNS`, writing a clip of each video that can be read to `folder`.

    A clip is `{"video": path of an mp4 file}`, None where there is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    table = []
    for number, row in enumerate(rows):
        clip = _clip(row["path"], open_video, folder / f"{number:03d}.mp4")
        table.append(
            [
                row["path"],
                clip,
                row["label"],
                row["prediction"],
                float(row["true_probability"]) if row["true_probability"] else None,
                row["top5"].replace("|", ", "),
                row["correct"] == "1",
            ]
        )
    return table


def _clip(
    video: str, open_video: Callable[[str], VideoReader], path: Path
) -> dict[str, str] | None:
    try:
        with open_video(video) as reader:
            write_clip(path, reader)
    except (VideoDecodeError, OSError, ValueError) as error:
        log.debug("no clip of %s: %s", video, error)
        return None
    return {"video": str(path)}
