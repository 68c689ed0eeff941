"""What is in a data root, in numbers: counts by class and split, faults, lengths, sizes."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from data_prep.journal import Records
from data_prep.progress import number_of
from data_prep.roots import Root
from data_prep.verify import JOURNAL, kind_of
from data_prep.work import file_stamp
from videogn.data.containers import find_source
from videogn.errors import VideoDecodeError
from videogn.report.text import printable

_CHUNK = 1 << 20  # bytes read at a time
_STAT_THREADS = 16  # on a network file system it is all waiting


@dataclass(frozen=True)
class Video:
    """A distinct video of a split; None is what is not known without verification."""

    path: str
    ok: bool | None
    kind: str
    error: str
    num_frames: int | None
    duration: float | None
    size: tuple[int, int] | None
    num_bytes: int | None

    @property
    def is_missing(self) -> bool:
        """Whether there is no such file now."""
        return self.num_bytes is None


@dataclass
class SplitStats:
    """One split: its rows, its distinct videos, and the number of videos by class name."""

    rows: int
    videos: list[Video]
    by_class: Counter[str]

    @property
    def missing(self) -> list[Video]:
        """Videos without a file."""
        return [video for video in self.videos if video.is_missing]

    @property
    def bad(self) -> list[Video]:
        """Videos that verification found bad, those with a file."""
        return [video for video in self.videos if video.ok is False and not video.is_missing]

    @property
    def unverified(self) -> int:
        """Videos that no verification has seen."""
        return sum(video.ok is None for video in self.videos)

    @property
    def seconds(self) -> float:
        """Of video, as far as it is known."""
        return sum(video.duration or 0.0 for video in self.videos)

    @property
    def num_bytes(self) -> int:
        """Of all files."""
        return sum(video.num_bytes or 0 for video in self.videos)


@dataclass
class Stats:
    """A data root in numbers.

    Attributes:
        short_below: frames; clips with fewer are short.
        twins: groups of paths whose files hold the same bytes.
        shared: paths that are in more than one split.
    """

    root: Path
    videos: Path
    classes: tuple[str, ...]
    splits: dict[str, SplitStats]
    short_below: int
    twins: list[list[str]] = field(default_factory=list)
    shared: list[str] = field(default_factory=list)

    @property
    def seen_once(self) -> list[Video]:
        """The videos of all splits, each once."""
        distinct = {video.path: video for split in self.splits.values() for video in split.videos}
        return list(distinct.values())

    @property
    def is_verified(self) -> bool:
        """Whether anything is known of the videos beyond their names and files."""
        return any(video.ok is not None for video in self.seen_once)

    @property
    def short(self) -> list[Video]:
        """Videos of fewer than `short_below` frames."""
        return [v for v in self.seen_once if v.num_frames and v.num_frames < self.short_below]

    @property
    def twins_across(self) -> list[list[str]]:
        """The groups of `twins` with videos of more than one split."""
        held: dict[str, set[str]] = {}
        for name, split in self.splits.items():
            for video in split.videos:
                held.setdefault(video.path, set()).add(name)
        return [group for group in self.twins if len(set().union(*(held[p] for p in group))) > 1]

    def without(self, split: str) -> list[str]:
        """The classes that have no video in `split`; none if there is no such split."""
        if split not in self.splits:
            return []
        return [name for name in self.classes if not self.splits[split].by_class[name]]


def read_stats(root: Root, *, short_below: int) -> Stats:
    """The numbers of a data root, from its csv files, what is verified, and the files' sizes."""
    records = Records(root.path / JOURNAL)
    names = {str(number): name for number, name in enumerate(root.classes)}
    names |= {name: name for name in root.classes}
    sizes = _file_sizes(root)
    splits: dict[str, SplitStats] = {}
    for split, table in root.splits.items():
        columns = table.strings
        seen: dict[str, Video] = {}
        by_class: Counter[str] = Counter()
        for values in zip(*columns.values(), strict=True):
            fields: dict[str, str] = dict(zip(columns, values, strict=True))
            path, label = fields["path"], fields.get("label", "")
            if path not in seen:
                seen[path] = _video(path, fields, records, sizes[path])
                by_class[names.get(label, label)] += 1
        splits[split] = SplitStats(len(table.lines), list(seen.values()), by_class)
    stats = Stats(root.path, root.videos, root.classes, splits, short_below)
    held = Counter(video.path for split in splits.values() for video in split.videos)
    stats.shared = [path for path, times in held.items() if times > 1]
    stats.twins = _twins(root, records)
    return stats


def remarks(stats: Stats) -> list[str]:
    """What to know besides the table, a sentence each; names are printable."""
    lines: list[str] = []
    unverified = sum(video.ok is None for video in stats.seen_once)
    if not stats.is_verified:
        lines.append(
            f"not verified: lengths and faults are unknown; run `python -m data_prep verify "
            f"{stats.root}`"
        )
    elif unverified:
        lines.append(f"{unverified} of {len(stats.seen_once)} videos are not verified yet")
    kinds = bad_kinds(stats)
    if kinds:
        text = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        lines.append(f"bad or missing: {text}")
    lengths = [video.num_frames for video in stats.seen_once if video.num_frames]
    if lengths:
        lines.append(f"frames of a video, least / median / most: {spread(lengths)}")
        lines.append(f"videos of fewer than {stats.short_below} frames: {len(stats.short)}")
    for split in stats.splits:
        lacking = stats.without(split)
        if lacking:
            lines.append(f"classes without a video in {split}: {len(lacking)}, {_some(lacking)}")
    for split, found in stats.splits.items():
        if found.rows > len(found.videos):
            repeated = found.rows - len(found.videos)
            lines.append(f"rows of {split} that repeat a video, which then counts more: {repeated}")
    if stats.shared:
        lines.append(f"videos in more than one split: {len(stats.shared)}, {_some(stats.shared)}")
    if stats.twins:
        files = sum(map(len, stats.twins))
        groups = number_of(len(stats.twins), "group")
        text = f"{files} files have the content of another one: {groups} of copies"
        across = stats.twins_across
        held = f", {len(across)} of them in more than one split" if across else ""
        group = (across or stats.twins)[0]  # in the order of the splits
        lines.append(f"{text}{held}, such as {printable(group[0])} and {printable(group[-1])}")
    return lines


def bad_kinds(stats: Stats) -> Counter[str]:
    """The number of distinct videos by kind of fault."""
    return Counter(video.kind for video in stats.seen_once if video.kind)


def spread(values: Sequence[int]) -> str:
    """The least, the median and the most of `values`: "3 / 12 / 90"; "" of none."""
    if not values:
        return ""
    return f"{min(values)} / {median(values):g} / {max(values)}"


def _some(names: Sequence[str], shown: int = 5) -> str:
    more = ", ..." if len(names) > shown else ""
    return ", ".join(printable(name) for name in names[:shown]) + more


def _file_sizes(root: Root) -> dict[str, int | None]:
    """The bytes of every video's file, None where there is none; 0 for a member of a tar."""
    paths = root.distinct()
    with ThreadPoolExecutor(_STAT_THREADS) as threads:
        stamps = threads.map(partial(file_stamp, root=root.videos), paths)
        return {
            path: None if stamp is None else 0 if "::" in path else stamp.size
            for path, stamp in zip(paths, stamps, strict=True)
        }


def _video(path: str, fields: Mapping[str, str], records: Records, found: int | None) -> Video:
    """What is known of a video: from the record of its verification, else from its row."""
    record = records.get(path)
    if record is None:
        told: Mapping[str, Any] = fields
        ok = {"1": True, "0": False}.get(fields.get("ok", ""))
        error = fields.get("error", "") if ok is False else ""
        kind = kind_of(error, is_open=bool(fields.get("num_frames"))) if ok is False else ""
    else:
        told, ok, error, kind = record.values, record.ok, record.error, record.kind
    num_bytes = found
    if found == 0 and "::" in path:
        num_bytes = None if kind == "missing" else int(_number(told.get("bytes")) or 0)
    width, height = _number(told.get("width")), _number(told.get("height"))
    frames = _number(told.get("num_frames"))
    return Video(
        path=path,
        ok=ok,
        kind="missing" if num_bytes is None else kind,
        error=error,
        num_frames=int(frames) if frames else None,
        duration=_number(told.get("duration")),
        size=(int(width), int(height)) if width and height else None,
        num_bytes=num_bytes,
    )


def _number(value: object) -> float | None:
    """`value` as a number; None for what is none, as an empty field of a csv file."""
    try:
        return float(str(value))
    except ValueError:
        return None


def _twins(root: Root, records: Records) -> list[list[str]]:
    """Groups of videos with the same content, among those verified.

    Candidates have the same size and the same times of frames; then their bytes are compared.
    """
    alike: dict[tuple[object, object], list[str]] = {}
    for path in root.distinct():
        record = records.get(path)
        if record is not None and record.values.get("index"):
            key = (record.values.get("bytes"), record.values["index"])
            alike.setdefault(key, []).append(path)
    groups: list[list[str]] = []
    for paths in alike.values():
        if len(paths) > 1:
            by_content: dict[str, list[str]] = {}
            for path, digest in _digests(root, paths):
                by_content.setdefault(digest, []).append(path)
            groups += [group for group in by_content.values() if len(group) > 1]
    return groups


def _digests(root: Root, paths: Iterable[str]) -> Iterable[tuple[str, str]]:
    """The SHA-256 of each video that can be read."""
    for path in paths:
        try:
            with find_source(root.videos / path, root.videos).open() as file:
                digest = hashlib.sha256()
                while chunk := file.read(_CHUNK):
                    digest.update(chunk)
                yield path, digest.hexdigest()
        except (OSError, VideoDecodeError):
            continue  # it is gone since it was verified: then it is no twin
