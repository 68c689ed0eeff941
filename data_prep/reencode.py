"""Write all videos of a data root anew, small and quick to read at random, as a new data root."""

from __future__ import annotations

import argparse
import json
import posixpath
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import av

from data_prep.arguments import even, takes_max_bad
from data_prep.encode import Settings, encode, unfinished
from data_prep.journal import Record, Records, shard_journal, take_shard
from data_prep.progress import number_of, size_text
from data_prep.roots import Root, add_to_summary, print_untrained, read_root, write_rows
from data_prep.verify import COLUMNS, describe, fields_of, kind_of, library_version
from data_prep.work import BadItemError, add_work_arguments, file_stamp, run_all, to_do
from videogn.cli.arguments import between, count, place
from videogn.data.pyav_reader import PyAVReader
from videogn.data.tables import write_text
from videogn.data.tar import split_member
from videogn.errors import DataError, VideoDecodeError
from videogn.report.text import printable

JOURNAL = "reencode.jsonl"
SETTINGS = "reencode.json"
VIDEOS = "videos"  # the folder of the new root that holds them
PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow")
_SHOWN_FAILED = 5  # the rest is in failed.csv


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("root", metavar="ROOT", type=place, help="the data root to read")
    add("--out", metavar="NEW", type=place, required=True, help="the data root to write")
    add("--videos", metavar="DIR", type=place, help="where the videos are, instead of source.txt")
    add(
        "--short-side",
        metavar="PIXELS",
        type=even,
        default=320,
        help="at most; training at 256 to 320 then enlarges nothing (320)",
    )
    add("--gop", metavar="FRAMES", type=count, default=30, help="from keyframe to keyframe (30)")
    add(
        "--crf",
        type=between(1, 51),
        metavar="N",
        default=20,
        help="quality from 1, the best, to 51 (20)",
    )
    add("--preset", choices=PRESETS, default="fast", help="of x264: time against size (fast)")
    takes_max_bad(parser)
    add("--write", action="store_true", help="write the csv files from what is recorded, and end")
    add_work_arguments(parser, timeout=600)


def run(arguments: argparse.Namespace) -> None:
    """Writes the new root; DataError (exit code 3) when more than --max-bad of it failed."""
    root, out = read_root(arguments.root, arguments.videos), arguments.out
    _refuse_overlap(root, out)
    paths = root.distinct()
    renamed = renamed_targets(paths)
    settings = Settings(arguments.short_side, arguments.gop, arguments.crf, arguments.preset)
    mine = take_shard(paths, arguments.shard)
    journal = shard_journal(out / JOURNAL, arguments.shard)
    stamp = partial(file_stamp, root=root.videos)
    redo = partial(_redo, out=out, renamed=renamed, retry_bad=arguments.retry_bad)
    if arguments.dry_run:
        todo = to_do(mine, Records(journal), stamp=stamp, redo=redo)
        print(
            f"{len(mine)} videos under {root.videos}: {len(mine) - len(todo)} are done, "
            f"{len(todo)} would be written by {arguments.jobs} processes to {out / VIDEOS}"
        )
        return
    _claim(out, settings)
    if arguments.write:
        records = Records(journal)
    else:
        records = run_all(
            mine,
            partial(
                reencode_video, videos=root.videos, out=out, settings=settings, renamed=renamed
            ),
            journal=journal,
            jobs=arguments.jobs,
            timeout=arguments.timeout,
            unit="video",
            stamp=stamp,
            redo=redo,
            memory=arguments.memory << 20,
        )
    if arguments.shard[1] == 1:
        write_root(root, out, records, settings, renamed)
    else:
        print(
            f"{journal}: done; after the last part run this command with --write, without --shard"
        )
    _require_few_failed(out, mine, records, arguments.max_bad)


def reencode_video(
    path: str, *, videos: Path, out: Path, settings: Settings, renamed: dict[str, str]
) -> dict[str, Any]:
    """Writes the video at `path`, relative to `videos`; returns what is in the new file.

    Raises BadItemError for a source that cannot be read to its end; there is then no new file.
    """
    target = target_of(path, renamed)
    file = out / VIDEOS / target
    values: dict[str, Any] = {"target": target}
    try:
        with PyAVReader(videos / path, root=videos) as reader:
            values |= {"num_frames": reader.num_frames, "bytes": reader.index.file_size}
            encode(reader, file, settings)
        with PyAVReader(file, root=out) as new:
            found = describe(new)
    except VideoDecodeError as error:
        file.unlink(missing_ok=True)  # of an earlier state of the source
        kind = kind_of(error.reason, is_open="num_frames" in values)
        raise BadItemError(kind, error.reason, values) from error
    return {**found, **values, "new_bytes": found["bytes"]}


def target_of(path: str, renamed: dict[str, str]) -> str:
    """The name of the new file of `path`, relative to the new video root.

    The same with the suffix .mp4; for a member of a tar, the member's name.
    """
    return renamed.get(path) or _plain_target(path)


def renamed_targets(paths: Sequence[str]) -> dict[str, str]:
    """The targets of those paths whose plain target would be that of another one too.

    `a.avi` beside `a.mp4` becomes `a.avi.mp4`, `s.tar::a.mp4` becomes `s/a.mp4`; where that is
    taken as well, a number is added.
    """
    wanted = Counter(_plain_target(path).casefold() for path in paths)
    shared = [path for path in paths if wanted[_plain_target(path).casefold()] > 1]
    taken = set(wanted)
    renamed: dict[str, str] = {}
    kept: set[str] = set()
    for path in sorted(shared):
        if _is_target(path) and path.casefold() not in kept:
            kept.add(path.casefold())
            continue
        member = split_member(path)
        longer = f"{member[0][: -len('.tar')]}/{_inside(member[1])}" if member else path
        base = _inside(longer).removesuffix(".mp4")
        target, number = f"{base}.mp4", 1
        while target.casefold() in taken:
            number += 1
            target = f"{base}-{number}.mp4"
        taken.add(target.casefold())
        renamed[path] = target
    return renamed


def write_root(
    root: Root, out: Path, records: Records, settings: Settings, renamed: dict[str, str]
) -> None:
    """Writes the csv files, classes.txt, source.txt, failed.csv and summary.json of the new root.

    Videos that failed leave train.csv, and stay in the other splits with ok = 0: there they count
    as wrong. Raises DataError while a video is not done.
    """
    missing = [path for path in root.distinct() if path not in records]
    if missing:
        raise DataError(
            f"{out}: {len(missing)} videos are not done, such as {missing[0]!r}; run the command "
            "for every part before --write"
        )
    write_text(out / "classes.txt", "".join(f"{name}\n" for name in root.classes))
    write_text(out / "source.txt", f"{VIDEOS}\n")
    failed: list[list[str]] = []
    labels: list[str] = []
    for split, table in root.splits.items():
        kept = [name for name in table.strings if name not in COLUMNS]
        at = kept.index("path")
        rows = []
        for fields in zip(*(table.strings[name] for name in kept), strict=True):
            path, record = fields[at], records[fields[at]]
            target = target_of(path, renamed)
            if not record.ok:
                failed.append([split, path, target, record.kind, record.error])
                unfinished(out / VIDEOS / target).unlink(missing_ok=True)
            if record.ok and split == "train":
                labels.append(fields[kept.index("label")])
            if record.ok or split != "train":
                changed = [*fields[:at], target, *fields[at + 1 :]]
                rows.append([*changed, *fields_of(record)])
        write_rows(out / f"{split}.csv", [*kept, *COLUMNS], rows)
    write_rows(out / "failed.csv", ["split", "path", "target", "kind", "error"], failed)
    _write_summary(root, out, records, settings)
    if "train" in root.splits:
        print_untrained(root.classes, labels)


def _plain_target(path: str) -> str:
    member = split_member(path)
    inside = _inside(member[1] if member else path)
    folder, name = posixpath.split(inside)
    return posixpath.join(folder, posixpath.splitext(name)[0] + ".mp4")


def _is_target(path: str) -> bool:
    return not split_member(path) and _plain_target(path) == path


def _inside(name: str) -> str:
    """`name` as a relative path that leads nowhere else: a member of a tar may be `../../x`."""
    return posixpath.normpath(f"/{name}").lstrip("/")


def _refuse_overlap(root: Root, out: Path) -> None:
    """DataError where the new videos would lie among the old ones, or the old among the new."""
    here, new = out.resolve(), (out / VIDEOS).resolve()
    for source in (root.path.resolve(), root.videos):
        if here.is_relative_to(source) or new.is_relative_to(source):
            raise DataError(f"--out {out}: lies in {source}, which is read; choose another folder")
    if root.videos.is_relative_to(new):
        raise DataError(f"--out {out}: holds the videos that are read; choose another folder")


def _claim(out: Path, settings: Settings) -> None:
    """Notes `settings` in the folder `out`; DataError if it is of something else."""
    path = out / SETTINGS
    wanted = asdict(settings)
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            found = None
        if found != wanted:
            raise DataError(
                f"{path}: {out} was begun with {found}, not with {wanted}; use the same settings "
                "or another --out"
            )
    elif (out / "train.csv").exists() or (out / "val.csv").exists():
        raise DataError(f"{out}: is a data root of another kind; choose another --out")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(wanted) + "\n")


def _redo(record: Record, *, out: Path, renamed: dict[str, str], retry_bad: bool) -> bool:
    """Whether to write again: a file that is gone or has another name; failed ones on demand."""
    if not record.ok:
        return retry_bad
    target = target_of(record.item, renamed)
    found = file_stamp(target, root=out / VIDEOS)
    is_there = found is not None and found.size == record.values.get("new_bytes")
    return not is_there or record.values.get("target") != target


def _write_summary(root: Root, out: Path, records: Records, settings: Settings) -> None:
    kinds: Counter[str] = Counter()
    before = after = frames = 0
    for path in root.distinct():
        record = records[path]
        kinds[record.kind] += 1
        if record.ok:
            frames += record.values["num_frames"]
            before += record.values["bytes"]
            after += record.values["new_bytes"]
    done = kinds.pop("", 0)
    summary = {
        **asdict(settings),
        "videos": done,
        "failed": sum(kinds.values()),
        "kinds": dict(kinds.most_common()),
        "frames": frames,
        "bytes_before": before,
        "bytes": after,
        "versions": {"av": av.__version__, "libavcodec": library_version("libavcodec")},
    }
    add_to_summary(out, "reencode", summary)
    print(
        f"{out}: {number_of(done, 'video')}, {size_text(before)} became {size_text(after)}; "
        f"{sum(kinds.values())} failed"
    )
    for kind, number in kinds.most_common():
        print(f"  {number} {kind}")
    if kinds:
        print(f"  listed in {out / 'failed.csv'}; they are not in train.csv, and count as wrong")
        print("  where they are in val.csv or test.csv")


def _require_few_failed(out: Path, paths: list[str], records: Records, max_bad: float) -> None:
    failed = [path for path in paths if path in records and not records[path].ok]
    if len(failed) <= max_bad * len(paths):
        return
    for path in failed[:_SHOWN_FAILED]:
        print(f"  {printable(f'{path}: {records[path].error}')}", file=sys.stderr)
    raise DataError(
        f"{out}: {len(failed)} of {len(paths)} videos failed, more than --max-bad {max_bad:g}; "
        "mend them, or allow more"
    )
