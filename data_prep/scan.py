"""Which files under a folder are videos, in plain archives too."""

from __future__ import annotations

import os
import sys
import tarfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from tqdm import tqdm

from data_prep.progress import LINE_EVERY
from videogn.data.containers import begins_like_video, is_video
from videogn.data.manifest import why_unusable
from videogn.data.tar import HEADER_ERRORS, Member, list_members
from videogn.errors import DataError
from videogn.nearest import did_you_mean

T = TypeVar("T")

# What --fast trusts, and what a list may leave out.
VIDEO_SUFFIXES = (
    *(".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".m2ts"),
    *(".flv", ".wmv", ".asf", ".3gp", ".ogv", ".ogg", ".vob"),
)
_COMPRESSED = (".tar.gz", ".tgz", ".tar.xz", ".txz", ".tar.bz2", ".tbz2", ".tar.zst")
_LISTS = (".csv", ".tsv", ".txt", ".json")
_IMAGES = (".jpg", ".jpeg", ".png")
_NOTES = (".cls", ".json")  # beside a video of the same name in an archive
_MAX_NOTE = 65_536  # bytes
_HEAD = 512  # bytes that tell a video, and a little more


@dataclass
class Scan:
    """What lies under `source`; paths are relative to it, with `/`.

    Attributes:
        videos: sorted; one inside an archive is `shard.tar::member`.
        ignored: the other files, with the reason.
        notes: texts of the small files beside videos in archives, by path.
    """

    source: Path
    videos: list[str] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


def scan_videos(source: Path, *, skip: Iterable[Path] = (), fast: bool = False) -> Scan:
    """The videos below the folder `source`, and all other files.

    The content decides, not the suffix, unless `fast`: each file is opened once. Links to folders
    are not followed, nor links to files outside. Files in `skip` are in neither list. Raises
    DataError when there is no video.
    """
    if not source.is_dir():
        raise _no_folder(source)
    scan, skip = Scan(source.resolve()), set(skip)
    closed: dict[Path, str] = {}
    for entry in _reported(_walk(scan.source, closed)):
        if Path(entry.path) in skip:
            continue
        path = Path(entry.path).relative_to(scan.source).as_posix()
        if path.lower().endswith(".tar") and entry.is_file():
            _scan_archive(scan, path, fast=fast)
            continue
        reason = _why_no_video(scan.source, path, entry, fast=fast)
        if reason:
            scan.ignored[path] = reason
        else:
            scan.videos.append(path)
    for folder, reason in closed.items():
        if folder == scan.source:
            raise DataError(f"{source}: {reason}; check the folder and its permissions")
        scan.ignored[f"{folder.relative_to(scan.source).as_posix()}/"] = reason
    if not scan.videos:
        raise _no_video(scan)
    scan.videos.sort()
    scan.ignored = dict(sorted(scan.ignored.items()))
    return scan


def bare_name(path: str) -> str:
    """The file name in `path` without the suffix of a video; other suffixes are kept."""
    name = path.replace("::", "/").rpartition("/")[2]
    stem, dot, suffix = name.rpartition(".")
    return stem if dot + suffix.lower() in VIDEO_SUFFIXES else name


def folders_of(path: str) -> list[str]:
    """The folders that a video lies in, the outermost first; an archive counts as one."""
    return path.replace("::", "/").split("/")[:-1]


def class_folder(path: str) -> str:
    """The name of the folder that a video lies in, empty if that is none but an archive."""
    member = path.rpartition("::")[2]
    return PurePosixPath(member).parent.name


def _walk(folder: Path, closed: dict[Path, str]) -> Iterator[os.DirEntry[str]]:
    """All files below `folder`, and the links to folders, which are not entered.

    A folder that cannot be listed goes to `closed`, with the reason: one of 400 stops no index.
    """
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        closed[folder] = f"a folder that cannot be read: {error.strerror}"
        return
    for entry in found:
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(Path(entry.path), closed)
        else:
            yield entry


def _why_no_video(source: Path, path: str, entry: os.DirEntry[str], *, fast: bool) -> str:
    """The reason to leave a file out, empty for a video."""
    reason = _why_bad_name(path)
    if reason:
        return reason
    file = Path(entry.path)
    if entry.is_symlink():
        if not file.resolve().is_relative_to(source):
            return "a link out of the folder"
        if file.is_dir():
            return "a link to a folder"
    lower = path.lower()
    if lower.endswith(_COMPRESSED):
        return "a compressed archive; gunzip it, or `data_prep k400` for those of Kinetics-400"
    if fast:
        hidden = entry.name.startswith(".")  # macOS leaves ._clip.mp4 beside clip.mp4
        return "no video by its suffix" if hidden or not lower.endswith(VIDEO_SUFFIXES) else ""
    try:
        return "" if is_video(file) else "no video by its content"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _why_bad_name(path: str) -> str:
    try:
        path.encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    reason = why_unusable(path)
    return f"its name {reason}" if reason else ""


def _scan_archive(scan: Scan, archive: str, *, fast: bool) -> None:
    """Adds what an uncompressed tar holds to `scan`."""
    file = str(scan.source / archive)
    try:
        for name, place in list_members(file):
            path = f"{archive}::{name}"
            lower = name.lower()
            reason = _why_bad_name(path)
            if not reason and lower.endswith(_NOTES) and place.size <= _MAX_NOTE:
                with Member(file, place.offset, place.size) as note:
                    scan.notes[path] = note.read().decode("utf-8", "replace")
                reason = "no video by its suffix"
            if not reason and not fast:
                with Member(file, place.offset, place.size) as member:
                    video = begins_like_video(member.read(_HEAD))
                reason = "" if video else "no video by its content"
            elif not reason:
                reason = "" if lower.endswith(VIDEO_SUFFIXES) else "no video by its suffix"
            if reason:
                scan.ignored[path] = reason
            else:
                scan.videos.append(path)
    except (OSError, tarfile.TarError, *HEADER_ERRORS) as error:
        scan.ignored[archive] = f"an archive that cannot be read: {error}"


def _no_folder(source: Path) -> DataError:
    """What to say of `source`, which is no folder: what it is, and what to give instead."""
    if not source.exists():
        beside = [path.name for path in source.parent.glob("*") if path.is_dir()]
        near = did_you_mean(source.name, beside)
        return DataError(
            f"{source}: no such folder{near or '; give the one that holds the videos'}"
        )
    folder, name = source.parent, source.name.lower()
    if name.endswith((".tar", *_COMPRESSED)):
        told = f"is an archive; give the folder that it lies in, {folder}"
    elif name.endswith(_LISTS):
        told = f"is a file, not a folder; give the folder of the videos, and --list {source}"
    elif source.is_file() and is_video(source):
        told = f"is one video; give the folder of all videos, such as {folder}"
    else:
        told = "is a file, not a folder; give the folder that holds the videos"
    return DataError(f"{source}: {told}")


def _no_video(scan: Scan) -> DataError:
    def named(suffixes: tuple[str, ...]) -> list[str]:
        return [path for path in scan.ignored if path.lower().endswith(suffixes)]

    archives, images = named(_COMPRESSED), named(_IMAGES)
    if archives:
        return DataError(
            f"{scan.source}: holds no video but {len(archives)} compressed archives such as "
            f"{archives[0]}; `python -m data_prep k400` unpacks those of Kinetics-400, gunzip "
            "makes a plain .tar of any other"
        )
    if images:
        return DataError(
            f"{scan.source}: holds no video but {len(images)} images such as {images[0]}; folders "
            "of frames are not read, give the videos they were taken from"
        )
    if not scan.ignored:
        return DataError(f"{scan.source}: holds no video and no other file; check the folder")
    path, reason = min(scan.ignored.items(), key=_is_told_by_form)
    others = "the only file" if len(scan.ignored) == 1 else f"of {len(scan.ignored)} files one"
    return DataError(
        f"{scan.source}: holds no video; {others}, {path!r}: {reason}; check the folder"
    )


def _is_told_by_form(ignored: tuple[str, str]) -> bool:
    """Whether a file is left out for what it is, which says less than one that cannot be read."""
    return ignored[1] in ("no video by its content", "no video by its suffix")


def _reported(entries: Iterable[T]) -> Iterator[T]:
    """`entries`, counted: a bar on a terminal, a plain line now and then elsewhere."""
    if sys.stderr.isatty():
        yield from tqdm(entries, desc="scanning", unit=" files", leave=False)
        return
    begin = spoke = time.monotonic()
    for number, entry in enumerate(entries, start=1):
        yield entry
        now = time.monotonic()
        if now - spoke >= LINE_EVERY:
            spoke = now
            rate = number / (now - begin)
            print(f"scanning: {number} files, {rate:.3g} files/s", file=sys.stderr, flush=True)
