"""Training and validation have no video in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from videogn.data.kinetics import kinetics400_classes, video_id
from videogn.data.manifest import Manifest, shown
from videogn.data.tables import line_of
from videogn.errors import DataError


def require_disjoint(train: Manifest, val: Manifest) -> None:
    """Raises DataError, naming both places, for a training video in `val`, by path or YouTube id.

    The ids are those of the column `youtube_id`, or in the names of the files if the classes are
    those of Kinetics-400. Two lists of the same paths are meant: a check whether a model learns at
    all (`data_prep index --val-same`).
    """
    if train.paths == val.paths:
        return
    _refuse_shared(train, val, train.paths, val.paths, "path")
    ours, theirs = _video_ids(train), _video_ids(val)
    if ours is not None and theirs is not None:
        _refuse_shared(train, val, ours, theirs, "YouTube id")


def _video_ids(manifest: Manifest) -> Sequence[str] | None:
    """The YouTube id of each video, empty where there is none; None if that is unknown."""
    if "youtube_id" in manifest.columns:
        return manifest.columns["youtube_id"]
    if manifest.classes == kinetics400_classes():
        return [video_id(path) for path in manifest.paths]
    return None


def _refuse_shared(
    train: Manifest, val: Manifest, ours: Iterable[str], theirs: Iterable[str], kind: str
) -> None:
    held = {key: row for row, key in enumerate(theirs) if key}
    for row, key in enumerate(ours):
        if key in held:
            place = f"{train.name}:{line_of(Path(train.name), row)}"
            other = f"{val.name}:{line_of(Path(val.name), held[key])}"
            raise DataError(
                f"{place}: {kind} {shown(key)} is also in validation, at {other}; remove one of "
                "the two rows"
            )
