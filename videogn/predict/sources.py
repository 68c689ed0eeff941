"""Which files the words of a command line name: files, folders, patterns, archives."""

from __future__ import annotations

import errno
import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from videogn.data.decode import is_video


@dataclass
class Found:
    """What words name.

    Attributes:
        places: of each video's path, in order, where it lies in the folder (or the fixed part of
            the pattern) that was given; for a file given singly its name.
        problems: why of a word, or of something below it, there is nothing: a sentence each.
    """

    places: dict[str, PurePath] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def find_videos(words: Sequence[str]) -> Found:
    """Returns the videos that `words` name, each once, in order, and what gives none.

    A folder stands for all videos below it, by content and not by name; a pattern (`*`, `?`, `**`)
    for the files that match. Any other word is a path, which may fail when it is opened.
    """
    found = Found()
    for word in words:
        # os.path's tests, not Path's, which raise where a folder above may not be looked into.
        if os.path.isdir(word):  # noqa: PTH112
            _add_folder(found, word)
        elif glob.has_magic(word) and not os.path.exists(word):  # noqa: PTH110
            _add_matches(found, word)
        else:
            found.places.setdefault(word, PurePath(PurePath(word).name))
    return found


def _add_folder(found: Found, folder: str) -> None:
    paths: list[str] = []
    problems: list[str] = []
    walk = os.walk(folder, onerror=lambda error: problems.append(_unreadable(error)))
    for place, folders, names in walk:
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            try:
                if is_video(path):
                    paths.append(str(path))
            except OSError as error:  # it may be a video: left out, it would be missed by nobody
                problems.append(_unreadable(error))
    if not paths and not problems:
        problems.append(f"{folder} holds no video; give a folder that does, or files")
    _add(found, paths, folder)
    found.problems += problems


def _add_matches(found: Found, pattern: str) -> None:
    matches = glob.glob(pattern, recursive=True)  # noqa: PTH207 - Path's take no absolute ones
    paths = sorted(path for path in matches if not os.path.isdir(path))  # noqa: PTH112
    folder = PurePath(pattern)
    while glob.has_magic(str(folder)):
        folder = folder.parent
    if not paths and os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):  # noqa: PTH112
        found.problems.append(f"{folder}: cannot be read: {os.strerror(errno.EACCES)}")
    elif not paths:
        found.problems.append(
            f"no file matches {pattern}; put the pattern in quotes, or give files"
        )
    _add(found, paths, folder)


def _add(found: Found, paths: Sequence[str], folder: str | PurePath) -> None:
    for path in paths:
        place = PurePath(path).relative_to(folder)
        if ".." in place.parts:  # as in `*/../*.mp4`: it may lie outside
            place = PurePath(place.name)
        found.places.setdefault(path, place)


def _unreadable(error: OSError) -> str:
    return f"{error.filename}: cannot be read: {error.strerror}"
