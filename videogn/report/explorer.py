"""What the page's menus choose from: confusions and the surest videos of each run, as json."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from videogn.data.manifest import read_manifest
from videogn.errors import DataError
from videogn.report.predictions import Prediction, class_names, confusion, surest
from videogn.report.records import Run
from videogn.report.text import printable
from videogn.report.thumbnails import thumbnail

MAX_RUNS = 24  # of a data set; at 40 to 200 kB each on Kinetics


@dataclass
class Thumbnails:
    """Makes thumbnails until there is no room for more, and keeps the page under 10 MB.

    Attributes:
        wanted: videos of each kind to show for a run; 0 for no thumbnails at all.
        room: bytes of the page that are left for them.
        page: bytes that are left for all that the menus choose from, thumbnails included.
    """

    wanted: int
    room: int = 4_000_000
    page: int = 9_000_000
    _known: dict[tuple[Path, str], dict[str, Any]] = field(default_factory=dict)

    def of(self, path: str, videos: Path | None) -> dict[str, Any]:
        """Returns what the page shows of a video: a strip of frames, or why there is none."""
        if videos is None or not self.wanted:
            return {}
        key = (videos, path)
        if key not in self._known:
            self._known[key] = self._make(path, videos)
        return self._known[key]

    def _make(self, path: str, videos: Path) -> dict[str, Any]:
        if self.room <= 0:
            return {"missing": "left out to keep the page small"}
        try:
            made = thumbnail(path, videos)
        except DataError as error:
            return {"missing": _short_reason(error)}
        text = base64.b64encode(made.jpeg).decode("ascii")
        self.room -= len(text)
        size = {"frames": made.frames, "width": made.width, "height": made.height}
        return {"strip": f"data:image/jpeg;base64,{text}", **size}


def explored(runs: Iterable[Run]) -> list[Run]:
    """Returns the runs that the menus offer: those with predictions, the newest if too many."""
    return [run for run in runs if run.predictions][-MAX_RUNS:]


def video_folder(runs: Sequence[Run]) -> tuple[Path | None, str]:
    """Returns where the videos of a data set lie, or None with the reason."""
    why = ""
    for run in reversed(runs):  # one of them may have been trained elsewhere
        root = Path(str(run.config.get("data.root")))
        videos = run.config.get("data.videos")
        try:
            return read_manifest(root, "val", videos=Path(videos) if videos else None).videos, ""
        except DataError as error:
            here = f"{root} is no data root here; report from the folder that the runs began in"
            why = why or (str(error) if root.is_dir() else here)
    return None, why


def explorer_data(
    runs: Sequence[Run], thumbnails: Thumbnails, videos: Path | None
) -> dict[str, Any]:
    """Returns what the menus show, in plain values.

    Args:
        runs: with predictions of the same videos.
        thumbnails: makes them.
        videos: folder of the videos, None where it is not known.
    """
    classes = sorted(set().union(*(class_names(run.predictions) for run in runs)))
    ids = {name: number for number, name in enumerate(classes)}
    number = thumbnails.wanted or 6
    chosen = {
        run.name: {
            kind: surest(run.predictions, number, correct=kind == "right")
            for kind in ("wrong", "right")
        }
        for run in runs
    }
    shown = {p.path: p.label for kinds in chosen.values() for ps in kinds.values() for p in ps}
    places = {path: place for place, path in enumerate(shown)}
    answers = [{p.path: p for p in run.predictions} for run in runs]
    return {
        "classes": [printable(name) for name in classes],
        "runs": [
            {
                "name": printable(run.name),
                "norm": run.norm,
                "confusion": [n for triple in confusion(run.predictions, ids) for n in triple],
                **{
                    kind: [places[p.path] for p in found]
                    for kind, found in chosen[run.name].items()
                },
            }
            for run in runs
        ],
        "videos": [
            {
                "path": printable(path),
                "label": ids[label],
                "said": [_said(answer[path], ids) for answer in answers],
                **thumbnails.of(path, videos),
            }
            for path, label in shown.items()
        ],
    }


def _said(answer: Prediction, ids: dict[str, int]) -> list[float | int | None] | None:
    """Returns prediction, its probability and that of the label; None for a failed video."""
    if answer.failed:
        return None
    return [ids[answer.prediction], answer.probability, answer.true_probability]


def _short_reason(error: DataError) -> str:
    """Returns the reason without the folders of this machine."""
    text = printable(getattr(error, "reason", None) or str(error))
    return text if len(text) <= 120 else f"{text[:117]}..."
