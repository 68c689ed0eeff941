"""What a copy of Kinetics-400 holds, and which of its files belongs to which annotation.

The official copy has train/part_*.tar.gz, val/part_*.tar.gz, annotations/*.csv and an archive of
replacements for damaged files. Copies of copies name and nest them differently, so a file is known
by the words in its path and by what it holds, and a video by the id that its name begins with.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.archives import SUFFIXES
from videogn.data.kinetics import kinetics400_classes, spelling, video_id
from videogn.data.tables import read_columns
from videogn.data.tar import split_member
from videogn.errors import DataError

SPLITS = ("train", "val", "test")
_ARCHIVES = (".tar", ".tar.gz", ".tgz")
# Not inside a word: "train_256", "k400_val", "validate", "part_7.test"; but not "contest".
_SPLIT = re.compile(r"(?<![a-z])(train|val|test)")
_ANNOTATION_COLUMNS = ("youtube_id", "time_start", "time_end")


@dataclass(frozen=True)
class Archive:
    """A tar of videos.

    Attributes:
        path: relative to the source folder.
        role: one of `SPLITS`, "replacement", or "other" where the path does not tell.
        bytes: its size.
    """

    path: str
    role: str
    bytes: int

    @property
    def is_plain(self) -> bool:
        """Whether its name says that it is not compressed."""
        return self.path.lower().endswith(".tar")

    @property
    def stem(self) -> str:
        """Its file name without the suffix."""
        name = self.path.rsplit("/", 1)[-1]
        return name[: -len(_suffix(name, _ARCHIVES))]


@dataclass
class Copy:
    """What lies under `source`, sorted; paths are relative to it."""

    source: Path
    archives: list[Archive] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)
    annotations: list[Path] = field(default_factory=list)


@dataclass(frozen=True)
class Clip:
    """A row of the annotations: `place` is its file:line; `label` is empty where none is given."""

    split: str
    video: str
    label: str
    start: str
    end: str
    place: str


@dataclass
class Match:
    """Which file belongs to which clip.

    Attributes:
        rows: for each split the rows of its csv, sorted by path.
        missing: clips without a file.
        ignored: files without a clip, or beside a better one, with the reason.
    """

    rows: dict[str, list[dict[str, str]]]
    missing: list[Clip]
    ignored: dict[str, str]


def find_copy(source: Path, *, skip: Sequence[Path] = ()) -> Copy:
    """What lies under the folder `source`, without what lies under the folders `skip`.

    Links to folders are followed once. Videos and archives are known by their suffixes: looking
    into 260,000 files takes an hour on a network file system, and `verify` does so anyway.
    """
    if not source.is_dir():
        what = "is a file, not a folder" if source.exists() else "no such folder"
        raise DataError(f"{source}: {what}; give the one that holds train and val")
    copy = Copy(source)
    for file in _walk(source, {folder.resolve() for folder in skip}):
        path = file.relative_to(source).as_posix()
        name = file.name.lower()
        if name.startswith("."):
            continue
        if _suffix(name, _ARCHIVES) and file.is_file():
            copy.archives.append(Archive(path, role_of(path), file.stat().st_size))
        elif _suffix(name, SUFFIXES):
            copy.videos.append(path)
        elif name.endswith(".csv") and _is_annotation(file):
            copy.annotations.append(file)
    copy.archives.sort(key=lambda archive: _natural(archive.path))
    copy.videos.sort()
    copy.annotations.sort()
    return copy


def role_of(path: str) -> str:
    """A split, "replacement" or "other", by the last part of `path` that says so.

    Folders of classes say nothing: "training dog" is not for training.
    """
    for part in reversed(path.lower().split("/")):
        found = _SPLIT.search(part)
        if "replacement" in part:
            return "replacement"
        if found and spelling(part) not in _class_names():
            return found[1]
    return "other"


def gaps(archives: Sequence[Archive]) -> list[str]:
    """Which numbers are left out where names go on counting: `train/part_17.tar.gz`.

    The last one cannot be known to be the last: only what lies between the first and it.
    """
    numbers: dict[tuple[str, str], set[int]] = {}
    for archive in archives:
        counted = re.fullmatch(r"(.*?)(\d+)(\.\D+)", archive.path)
        if counted:
            numbers.setdefault((counted[1], counted[3]), set()).add(int(counted[2]))
    return [
        f"{start}{number}{end}"
        for (start, end), found in numbers.items()
        for number in range(min(found), max(found))
        if number not in found and len(found) > 1
    ]


def read_annotations(files: Sequence[Path], *, any_class: bool = False) -> dict[str, Clip]:
    """The clips that the csv files list, by YouTube id.

    The columns are youtube_id,time_start,time_end and maybe label, split and others. A label is
    given as the class list spells it, with `any_class` as it stands (of Kinetics-600, say). A test
    video that is also in train or val is left out of test. Raises DataError for an unknown class,
    for a video with two labels, and for one that is in train and in val.
    """
    clips: dict[str, Clip] = {}
    for file in files:
        for clip in _clips_in(file, any_class=any_class):
            known = clips.get(clip.video)
            clips[clip.video] = clip if known is None else _one_of(known, clip)
    return clips


def match(paths: Iterable[str], clips: Mapping[str, Clip], splits: Iterable[str]) -> Match:
    """Finds the file of each clip by its YouTube id, the first 11 characters of the file's name.

    Of several files a replacement wins, even if it was cut at other times, then the one whose name
    has the clip's times, then the first by path. A file in a folder of another split than the
    annotations say is not used. Clips are missing only in `splits` and where others have a file.
    """
    files: dict[str, list[str]] = {}
    ignored: dict[str, str] = {}
    for path in sorted(paths):
        clip = clips.get(_video_id(path))
        role = _folder_role(path)
        if clip is None:
            ignored[path] = "has no row in the annotations"
        elif role in SPLITS and role != clip.split:
            ignored[path] = f"the annotations have it in {clip.split} ({clip.place})"
        else:
            files.setdefault(clip.video, []).append(path)
    rows: dict[str, list[dict[str, str]]] = {split: [] for split in SPLITS}
    ids = {name: str(number) for number, name in enumerate(kinetics400_classes())}
    for video, candidates in files.items():
        clip = clips[video]
        best, *others = sorted(candidates, key=functools.partial(_preference, clip=clip))
        rows[clip.split].append(_row(best, clip, ids))
        ignored |= dict.fromkeys(others, f"{best} has the same id")
    for split in SPLITS:
        rows[split].sort(key=lambda row: row["path"])
    looked_for = set(splits) | {split for split in SPLITS if rows[split]}
    missing = [
        clip for clip in clips.values() if clip.split in looked_for and clip.video not in files
    ]
    return Match(rows, missing, dict(sorted(ignored.items())))


def _row(path: str, clip: Clip, ids: Mapping[str, str]) -> dict[str, str]:
    return {
        "path": path,
        "label": clip.label,
        "label_id": ids.get(clip.label, ""),
        "youtube_id": clip.video,
        "start": clip.start,
        "end": clip.end,
    }


def _preference(path: str, clip: Clip) -> tuple[bool, bool, str]:
    """Sorts the better file of a clip first."""
    times = "".join(f"_{time:0>6}" for time in (clip.start, clip.end))
    return _folder_role(path) != "replacement", f"{clip.video}{times}." not in path, path


def _folder_role(path: str) -> str:
    """`role_of` the folder, or tar, of a video: its name is an id, and may hold any word."""
    return role_of(path.replace("::", "/").rpartition("/")[0])


def _video_id(path: str) -> str:
    inside = split_member(path)
    return video_id(inside[1] if inside else path)


@functools.cache
def _class_names() -> dict[str, str]:
    """The classes by their spelling without blanks and punctuation."""
    return {spelling(name): name for name in kinetics400_classes()}


def _clips_in(file: Path, *, any_class: bool) -> Iterator[Clip]:
    columns = read_columns(file, _ANNOTATION_COLUMNS)
    texts = columns.strings
    unknown = [""] * len(columns.lines)
    for line, video, label, start, end, split in zip(
        columns.lines.tolist(),
        texts["youtube_id"],
        texts.get("label", unknown),
        texts["time_start"],
        texts["time_end"],
        texts.get("split", unknown),
        strict=True,
    ):
        place = f"{file}:{line}"
        role = role_of(split or file.stem)
        if role not in SPLITS:
            raise DataError(f"{place}: split {split!r} is none of {', '.join(SPLITS)}; correct it")
        name = label if any_class else _class_name(label, role, place)
        yield Clip(role, video, name, start, end, place)


def _class_name(label: str, split: str, place: str) -> str:
    """`label` as the class list spells it; only a test video may have none."""
    if not label and split == "test":
        return ""
    name = _class_names().get(spelling(label))
    if name is None:
        raise DataError(
            f"{place}: {label!r} is no class of Kinetics-400; correct it, or use `index` for "
            "another set"
        )
    return name


def _one_of(known: Clip, clip: Clip) -> Clip:
    """The clip that counts of two rows of one video; DataError if they contradict each other."""
    if "test" in (known.split, clip.split) and known.split != clip.split:
        return known if clip.split == "test" else clip
    if known.split != clip.split:
        raise DataError(
            f"{clip.place}: {clip.video!r} is in {clip.split} here and in {known.split} at "
            f"{known.place}; a video must not be in both, remove one row"
        )
    if known.label and clip.label and known.label != clip.label:
        raise DataError(
            f"{clip.place}: {clip.video!r} is {clip.label!r} here and {known.label!r} at "
            f"{known.place}; keep one label"
        )
    return known if known.label else clip


def _is_annotation(file: Path) -> bool:
    """Whether a csv file has the columns of the official annotations."""
    with file.open("rb") as lines:
        header = lines.readline(1000).decode("utf-8", "replace")
    return all(name in header for name in _ANNOTATION_COLUMNS)


def _walk(source: Path, skip: set[Path]) -> Iterator[Path]:
    seen: set[Path] = set()
    for folder, folders, files in os.walk(source, followlinks=True):
        real = Path(folder).resolve()
        if real in seen or real in skip:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(folder, name) for name in sorted(files))


def _suffix(name: str, suffixes: Sequence[str]) -> str:
    """That of `suffixes` which `name` ends with, the longest one; empty if none."""
    found = [suffix for suffix in suffixes if name.lower().endswith(suffix)]
    return max(found, key=len, default="")


def _natural(path: str) -> list[tuple[int, str]]:
    """Sorts part_2 before part_10."""
    pieces = re.split(r"(\d+)", path)
    return [(int(piece) if piece.isdigit() else -1, piece) for piece in pieces]
