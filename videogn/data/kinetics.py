"""What the copies of Kinetics-400 share under all their spellings: the classes and the ids."""

from __future__ import annotations

import posixpath
import re
from functools import cache
from pathlib import Path

from videogn.data.tables import read_classes

_ID_LENGTH = 11  # of a YouTube id
_NAME = re.compile(r"([\w-]{11})(?:_(\d{6})_(\d{6}))?", re.ASCII)


@cache
def kinetics400_classes() -> tuple[str, ...]:
    """The 400 class names of Kinetics-400 in the order of their ids."""
    return read_classes(Path(__file__).with_name("kinetics400_classes.txt"))


def spelling(name: str) -> str:
    """`name` without what copies of Kinetics-400 write differently: case, blanks, punctuation.

    The 400 names stay different. Their sorted order does not stay: without parentheses 308, "skiing
    (not slalom or crosscountry)", and 309, "skiing crosscountry", change places.
    """
    return re.sub("[^a-z0-9]+", "", name.lower())


def video_id(path: str) -> str:
    """The YouTube id of a file of Kinetics: the first 11 characters of its name without suffix.

    The name is `<id>`, `<id>_<start>_<end>` or, in copies that shortened it further, anything of
    fewer characters, which is then the id.
    """
    return _stem(path)[:_ID_LENGTH]


def has_video_id(path: str) -> bool:
    """Whether a file is named like one of Kinetics: `<id>` or `<id>_<start>_<end>`."""
    return _NAME.fullmatch(_stem(path)) is not None


def clip_fields(path: str) -> dict[str, str]:
    """The columns youtube_id, start and end (seconds) of a file for which `has_video_id` holds.

    start and end are empty where the name does not tell.
    """
    match = _NAME.fullmatch(_stem(path))
    video, start, end = match.groups("") if match else (video_id(path), "", "")
    return {"youtube_id": video, "start": start and str(int(start)), "end": end and str(int(end))}


def _stem(path: str) -> str:
    path = path.rpartition("::")[2]  # of a video in an archive, `shard.tar::member`
    return posixpath.splitext(posixpath.basename(path))[0]
