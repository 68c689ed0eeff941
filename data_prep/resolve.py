"""Which of the videos found a row of a list means, when the list was written somewhere else."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from data_prep.lists import Listed, split_named
from data_prep.scan import bare_name, folders_of
from videogn.data.kinetics import has_video_id, video_id
from videogn.errors import DataError


class Resolver:
    """Finds the file of a row among `videos`, the paths below `source`.

    A row may give the path from a folder further up or further down, an absolute path on this or on
    another machine, and leave out the suffix. What it gives must end as the path of the file, or
    the other way round, whole folders compared. A name like those of Kinetics is also found by its
    YouTube id, whatever times stand in it.
    """

    def __init__(self, source: Path, videos: Iterable[str]) -> None:
        self._root = f"{source}/"
        self._by_name: dict[str, list[str]] = {}
        for path in videos:
            self._by_name.setdefault(bare_name(path), []).append(path)

    def find(self, row: Listed) -> str | None:
        """The path of the file, or None for no such file.

        DataError if several could be meant and neither suffix nor split tells which.
        """
        path = row.path.strip().replace("\\", "/").removeprefix(self._root)
        named = self._by_name.get(bare_name(path), [])
        wanted = _folders(path)
        found = [file for file in named if _end_alike(_folders(file), wanted)]
        if not found and has_video_id(path):
            found = self._by_id.get(video_id(path), [])
        if len(found) > 1:
            found = _narrowed(found, path, row.split)
        if len(found) > 1:
            raise DataError(
                f"{row.place}: {row.path!r} may be {found[0]!r} or {found[1]!r}; write more of the "
                "path, or remove one of the files"
            )
        return found[0] if found else None

    @cached_property
    def _by_id(self) -> dict[str, list[str]]:
        ids: dict[str, list[str]] = {}
        for files in self._by_name.values():
            for file in files:
                if has_video_id(file):
                    ids.setdefault(video_id(file), []).append(file)
        return ids


def why_missing(source: Path, row: Listed) -> str:
    """Why no video below `source` is that of `row`: there is none, or it lies elsewhere."""
    file = source / row.path.strip()
    try:
        if not file.is_file():
            return "no such file"
        inside = file.resolve().is_relative_to(source)
    except (OSError, ValueError):  # too long a name, or one with a NUL
        return "no such file"
    return "is no video, see ignored.txt" if inside else "lies outside the folder"


def _folders(path: str) -> list[str]:
    return [part for part in folders_of(path) if part not in ("", ".")]


def _end_alike(one: list[str], other: list[str]) -> bool:
    shared = min(len(one), len(other))
    return shared == 0 or one[-shared:] == other[-shared:]


def _narrowed(found: list[str], path: str, split: str) -> list[str]:
    """The files of `found` that fit best: the very path, its file name, then the split's folder."""
    name = path.rpartition("/")[2]
    tests = (
        lambda file: file == path,
        lambda file: f"/{file}".replace("::", "/").endswith(f"/{name}"),
        lambda file: split in {split_named(folder) for folder in folders_of(file)},
    )
    for test in tests:
        found = [file for file in found if test(file)] or found
    return found
