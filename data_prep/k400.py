"""The official copy of Kinetics-400, packed as it was downloaded -> a data root."""

from __future__ import annotations

import argparse
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.arguments import shard
from data_prep.journal import Record, take_shard
from data_prep.k400_lists import write_lists
from data_prep.k400_source import SPLITS, gaps
from data_prep.k400_unpack import (
    Task,
    failed_archives,
    free_bytes,
    needed_bytes,
    plan,
    require_space,
    still_to_do,
    unpack_all,
)
from data_prep.work import available_cores
from videogn.cli.arguments import count, place
from videogn.errors import DataError

_GIGA = 1e9
_SHOWN = 5  # failed archives; the rest is in summary.json


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add(
        "source", metavar="SRC", type=place, help="the folder of the copy; nothing in it is changed"
    )
    add("--out", metavar="ROOT", type=place, required=True, help="the data root to write")
    add("--videos", metavar="DIR", type=place, help="where to unpack to (ROOT/videos)")
    add("--annotations", metavar="PATH", type=place, help="the csv file, or their folder (SRC)")
    add("--tars", action="store_true", help="unpack each archive to one plain tar, not to files")
    add("--jobs", metavar="N", type=count, default=available_cores(), help="archives at a time")
    add("--timeout", metavar="SECONDS", type=count, default=7200, help="for one archive (7200)")
    add(
        "--shard",
        metavar="I/N",
        type=shard,
        default=(1, 1),
        help="unpack the I-th of N parts of the archives and write no lists, for job arrays",
    )
    add("--limit", metavar="N", type=count, help="take the first N archives of each split only")
    add("--dry-run", action="store_true", help="print what would be done, and write nothing")


def run(arguments: argparse.Namespace) -> int:
    """Unpacks, writes the lists and prints what is next; returns 3 if an archive was damaged."""
    task = plan(
        arguments.source,
        arguments.out,
        videos=arguments.videos,
        annotations=arguments.annotations,
        as_tars=arguments.tars,
        limit=arguments.limit,
    )
    mine = take_shard(list(task.targets), arguments.shard)
    todo = still_to_do(task, mine)
    _print_plan(task, todo)
    if arguments.dry_run:
        return 0
    require_space(task, todo)
    task.out.mkdir(parents=True, exist_ok=True)
    if todo:
        options = {"jobs": arguments.jobs, "timeout": arguments.timeout, "shard": arguments.shard}
        unpack_all(task, mine, **options)
    failed = failed_archives(task, mine)
    _print_failed(failed)
    if arguments.shard[1] > 1:
        print("when all shards are done, run the command once more without --shard for the lists")
    else:
        _print_summary(task.out, write_lists(task, failed))
    return DataError.exit_code if failed else 0


def _print_plan(task: Task, todo: Sequence[str]) -> None:
    copy = task.copy
    print(f"{copy.source}:")
    for role in (*SPLITS, "replacement", "other"):
        sizes = [archive.bytes for archive in copy.archives if archive.role == role]
        if sizes:
            print(f"  {role}: {len(sizes)} archives, {sum(sizes) / _GIGA:.1f} GB")
    lacking = gaps(copy.archives)
    if lacking:
        more = f" and {len(lacking) - _SHOWN} more" if len(lacking) > _SHOWN else ""
        print(f"  not there, by the numbers: {', '.join(lacking[:_SHOWN])}{more}")
    if copy.videos:
        print(f"  {len(copy.videos)} loose videos")
    for file in copy.annotations:
        print(f"  annotations: {file}")
    rows = Counter(clip.split for clip in task.clips.values())
    print("  rows: " + ", ".join(f"{split} {rows[split]}" for split in SPLITS))
    if copy.archives:
        needed, free = needed_bytes(task, todo) / _GIGA, free_bytes(task.videos) / _GIGA
        print(f"to unpack: {len(todo)} of {len(copy.archives)} archives to {task.videos}")
        print(f"disk: about {needed:.1f} GB needed, {free:.1f} GB free", flush=True)


def _print_failed(failed: Sequence[Record]) -> None:
    for record in failed[:_SHOWN]:
        print(f"failed: {record.error}")
    if len(failed) > _SHOWN:
        print(f"failed: {len(failed) - _SHOWN} more archives, listed in summary.json")


def _print_summary(root: Path, summary: Mapping[str, Any]) -> None:
    for split in SPLITS:
        videos, missing = summary["videos"][split], summary["missing"][split]
        if videos or missing:
            print(f"{split}: {videos} videos; {missing} rows have no file (missing.csv)")
    empty = summary["archives"]["without_videos"]
    if empty:
        print(f"no videos in {len(empty)} archives (summary.json): {', '.join(empty[:_SHOWN])}")
    left_out = sum(map(len, summary["archives"]["members_left_out"].values()))
    print(f"left out: {summary['ignored']} files (ignored.txt), {left_out} members (summary.json)")
    quoted = shlex.quote(str(root))
    smaller = shlex.quote(f"{root}-320")
    print(
        f"next:\n  python -m data_prep verify {quoted}\n"
        f"  python -m data_prep reencode {quoted} --out {smaller} --short-side 320"
    )
