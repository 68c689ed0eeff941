"""Unpacking a copy of Kinetics-400: which archive goes where, and which is still to do."""

from __future__ import annotations

import errno
import functools
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.archives import remove_leftovers, unpack_archive
from data_prep.journal import Record, Records, Stamp, shard_journal
from data_prep.k400_source import Archive, Clip, Copy, find_copy, read_annotations
from data_prep.work import BadItemError, file_stamp, run_all, to_do
from videogn.errors import DataError

_GIGA = 1e9
_GZIP_GROWTH = 1.02  # 436 GB of archives hold 443 GB of videos
_SPARE = 1 << 30  # bytes to leave free


@dataclass(frozen=True)
class Task:
    """What is to be done.

    Attributes:
        copy: what was found.
        out: the data root.
        videos: the folder to unpack to.
        targets: for each archive's path the file or folder it is unpacked to, relative to `videos`.
        clips: the annotations, by YouTube id.
        as_tars: whether targets are plain tars.
    """

    copy: Copy
    out: Path
    videos: Path
    targets: dict[str, str]
    clips: dict[str, Clip]
    as_tars: bool

    @property
    def journal(self) -> Path:
        """Where finished archives are recorded."""
        return self.out / "unpack.jsonl"


def plan(
    source: Path,
    out: Path,
    *,
    videos: Path | None = None,
    annotations: Path | None = None,
    as_tars: bool = False,
    limit: int | None = None,
) -> Task:
    """Looks at the copy and reads its annotations; writes nothing.

    Raises DataError when there is nothing to unpack or list, no annotation, or `out` is `source`.
    """
    source, out = source.absolute(), out.absolute()
    videos = (videos or out / "videos").absolute()
    if source.resolve() in (out.resolve(), videos.resolve()):
        raise DataError(f"{source}: is also the folder to write to; choose another --out, --videos")
    copy = find_copy(source, skip=[videos])
    if limit is not None:
        copy.archives = _first_of_each(copy.archives, limit)
    if not copy.archives and not copy.videos:
        raise DataError(f"{source}: holds neither archives nor videos; check the folder")
    if annotations is not None:
        file = annotations.absolute()
        copy.annotations = [file] if file.is_file() else find_copy(file).annotations
    if not copy.annotations:
        raise DataError(
            f"{annotations or source}: holds no annotations, csv files with the columns youtube_id,"
            "time_start,time_end; add them, unpacked, or list a class tree with `index`"
        )
    clips = read_annotations(copy.annotations)
    return Task(copy, out, videos, _targets(copy.archives, as_tars), clips, as_tars)


def unpack_one(
    path: str, *, source: Path, videos: Path, targets: Mapping[str, str], as_tars: bool
) -> dict[str, Any]:
    """Unpacks the archive at `path`, relative to `source`; returns the values of its record.

    Raises BadItemError for an archive that is damaged, and when the disk is full.
    """
    target = targets[path]
    try:
        contents = unpack_archive(source / path, videos / target, as_tar=as_tars)
    except DataError as error:
        raise BadItemError("damaged", str(error)) from error
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        reason = (
            f"{source / path}: cannot be unpacked to {videos / target}: {error.strerror or error}"
        )
        raise BadItemError("disk full" if full else "unreadable", reason) from error
    return {
        "target": target,
        "files": contents.files,
        "bytes": contents.bytes,
        "num_left_out": contents.num_left_out,
        "left_out": contents.left_out,
    }


def _first_of_each(archives: Iterable[Archive], limit: int) -> list[Archive]:
    taken: dict[str, list[Archive]] = {}
    for archive in archives:
        taken.setdefault(archive.role, []).append(archive)
    return [archive for group in taken.values() for archive in group[:limit]]


def _targets(archives: Sequence[Archive], as_tars: bool) -> dict[str, str]:
    """Where each archive goes: `train/part_7`, or `train/part_7.tar`.

    A folder of its own for each keeps folders at a thousand files, and lets it appear at once.
    """
    names = Counter(f"{archive.role}/{archive.stem}" for archive in archives)
    targets: dict[str, str] = {}
    for archive in archives:
        name = f"{archive.role}/{archive.stem}"
        if names[name] > 1:  # of two folders: the whole path tells them apart
            name = f"{archive.role}/{archive.path.replace('/', '__')}"
        targets[archive.path] = f"{name}.tar" if as_tars else name
    return targets


def still_to_do(task: Task, mine: Sequence[str]) -> list[str]:
    """Those of the archives `mine` that are not unpacked yet."""
    return to_do(mine, Records(task.journal), stamp=_stamp(task), redo=_redo(task))


def _stamp(task: Task) -> Callable[[str], Stamp | None]:
    return functools.partial(file_stamp, root=task.copy.source)


def _redo(task: Task) -> Callable[[Record], bool]:
    """Whether what an archive on record was unpacked to is not what, or where, it should be."""

    def redo(record: Record) -> bool:
        target = task.targets[record.item]
        there = record.ok and record.values["target"] == target
        return not there or not (task.videos / target).exists()

    return redo


def unpack_all(
    task: Task, mine: Sequence[str], *, jobs: int, timeout: float, shard: tuple[int, int]
) -> None:
    """Unpacks those of the archives `mine` that are still to do, and records what became of each.

    Raises DataError when the disk is full; a damaged archive is recorded, and the rest goes on.
    """
    work = functools.partial(
        unpack_one,
        source=task.copy.source,
        videos=task.videos,
        targets=task.targets,
        as_tars=task.as_tars,
    )
    run_all(
        mine,
        work,
        journal=shard_journal(task.journal, shard),
        jobs=jobs,
        timeout=timeout,
        unit="archive",
        stamp=_stamp(task),
        redo=_redo(task),
    )
    for record in failed_archives(task, mine):
        remove_leftovers(task.videos / task.targets[record.item])  # of a process that was killed
        if record.kind == "disk full":
            raise DataError(f"{record.error}; free space, then the same command goes on")


def failed_archives(task: Task, mine: Sequence[str]) -> list[Record]:
    """The records of those of the archives `mine` that could not be unpacked."""
    records = Records(task.journal)
    found = [records.get(path) for path in mine]
    return [record for record in found if record is not None and not record.ok]


def needed_bytes(task: Task, todo: Sequence[str]) -> int:
    """Bytes that the archives `todo` will take when unpacked, about."""
    sizes = {archive.path: archive for archive in task.copy.archives}
    growth = (1.0 if sizes[path].is_plain else _GZIP_GROWTH for path in todo)
    return round(sum(sizes[path].bytes * factor for path, factor in zip(todo, growth, strict=True)))


def free_bytes(folder: Path) -> int:
    """Bytes free on the file system that `folder` lies on, or will lie on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def require_space(task: Task, todo: Sequence[str]) -> None:
    """Raises DataError when the archives `todo` will not fit on the disk."""
    needed, free = needed_bytes(task, todo), free_bytes(task.videos)
    if todo and needed + _SPARE > free:
        raise DataError(
            f"{task.videos}: unpacking takes {needed / _GIGA:.1f} GB and 1 GB spare, "
            f"{free / _GIGA:.1f} GB are free; choose --videos on another disk, or --limit"
        )
