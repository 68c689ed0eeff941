"""Which files the words of a command line name: files, folders, patterns, archives."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from videogn.data.decode import is_video
from videogn.errors import DataError


def find_videos(words: Sequence[str]) -> list[str]:
    """Returns the paths that `words` name, each once, in order.

    A folder stands for all videos below it, by content and not by name; a pattern (`*`, `?`, `**`)
    for the files that match. Any other word is a path, which may fail when it is opened.

    Raises:
        DataError: a folder holds no video, or nothing matches a pattern.
    """
    found: list[str] = []
    for word in words:
        if Path(word).is_dir():
            inside = _videos_below(word)
            if not inside:
                raise DataError(f"{word} holds no video; give a folder that does, or files")
            found += inside
        elif glob.has_magic(word) and not Path(word).exists():
            matches = glob.glob(word, recursive=True)  # noqa: PTH207 - Path's take no absolute ones
            matches = sorted(path for path in matches if Path(path).is_file())
            if not matches:
                raise DataError(f"no file matches {word}; put the pattern in quotes, or give files")
            found += matches
        else:
            found.append(word)
    return list(dict.fromkeys(found))


def _videos_below(folder: str) -> list[str]:
    found = []
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place, name)
            try:
                if is_video(path):
                    found.append(str(path))
            except OSError:  # it cannot be looked into, so nobody can say that it is a video
                continue
    return found
