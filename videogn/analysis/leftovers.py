"""Names of what an analysis writes, and what an earlier one of the same folder left behind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from itertools import count
from pathlib import Path

from videogn.runs import read_json

RESULTS = "analysis.json"
_FIGURES = ("calibration", "confusion")
_FIGURES += ("noise_answers", "noise_layers", "percentiles_first", "percentiles_last")
_FILES = ("classes.csv", "confusion.csv", "pairs.csv")
_FILES += tuple(f"{name}.{kind}" for name in _FIGURES for kind in ("png", "svg"))


def cam_names(videos: Sequence[str]) -> list[str]:
    """Returns the file name of each video's heat, all of them distinct on any file system.

    Videos of one name are told apart by the folders they lie in, then by numbers. No name is that
    of one of the videos, which may lie in the folder of the analysis.
    """
    paths = [Path(video) for video in videos]
    stems = Counter(path.stem.casefold() for path in paths)
    taken = {path.name.casefold() for path in paths}
    names = []
    for path in paths:
        stem = path.stem
        if stems[stem.casefold()] > 1:
            stem = f"{path.parent.resolve().name}_{stem}"
        tried = (f"cam_{stem}{f'_{n}' if n else ''}.mp4" for n in count())
        names.append(next(name for name in tried if name.casefold() not in taken))
        taken.add(names[-1].casefold())
    return names


def remove_leftovers(folder: Path, kept: Collection[str]) -> list[str]:
    """Removes the files of the analysis that `RESULTS` in `folder` is of; returns their names.

    Without such a file nothing there is known to be ours, and nothing is removed; heat is removed
    only if that file names it.

    Args:
        folder: of the results.
        kept: names of files that stay.
    """
    earlier = read_json(folder / RESULTS)
    if earlier is None:
        return []
    removed = []
    for name in [*_FILES, *_heat(earlier.get("cams"))]:
        path = folder / name
        if name not in kept and path.is_file():
            path.unlink()
            removed.append(name)
    return removed


def _heat(cams: object) -> list[str]:
    """Returns those of the names in a list of heat that an analysis would give."""
    entries = cams if isinstance(cams, list) else []
    names = [entry.get("file") for entry in entries if isinstance(entry, dict)]
    return [
        name
        for name in names
        if isinstance(name, str)
        and Path(name).name == name
        and name.startswith("cam_")
        and name.endswith(".mp4")
    ]
