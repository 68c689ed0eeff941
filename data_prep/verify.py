"""Decode every video of a data root once: what is in it, and which ones are bad."""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from data_prep.arguments import takes_max_bad
from data_prep.journal import Record, Records, shard_journal, take_shard
from data_prep.progress import length_text, number_of, size_text
from data_prep.roots import Root, add_to_summary, print_untrained, read_root, write_rows
from data_prep.work import BadItemError, add_work_arguments, file_stamp, run_all, to_do
from videogn.cli.arguments import place
from videogn.data.frame_index import FrameIndex
from videogn.data.pyav_reader import PyAVReader
from videogn.data.tables import Columns, read_columns
from videogn.errors import DataError, VideoDecodeError
from videogn.report.text import printable

JOURNAL = "verify.jsonl"
# What verification adds to the csv files.
COLUMNS = ("num_frames", "fps", "width", "height", "duration", "ok", "error", "index")
_BAD_COLUMNS = ("split", "dropped", "kind", "error")
_SHOWN_BAD = 5  # the rest is in bad.csv

# Kinds of bad videos by the reason that the reader gives; the first that is found in it counts.
_KINDS = (
    ("No such file|holds no such regular file", "missing"),
    ("does not begin like|is not a regular file|is an address|lies outside", "not media"),
    ("no video stream", "no video stream"),
    ("is cut short", "cut short"),
    ("holds no frame", "no frame"),
    ("exceed|has more than", "too large"),
    ("its codec", "codec not read"),
    ("is no longer", "size changes"),
    ("took more than", "time-out"),
    ("the tar cannot be read", "bad tar"),
    ("Cannot allocate memory", "out of memory"),
    ("[Pp]ermission|Is a directory|Input/output|[Ss]tale", "unreadable"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("root", metavar="ROOT", type=place, help="the data root")
    add("--videos", metavar="DIR", type=place, help="where the videos are, instead of source.txt")
    add("--fast", action="store_true", help="decode only the first, middle and last frame of each")
    takes_max_bad(parser)
    add("--drop-bad", action="store_true", help="take bad videos out of train.csv, never of val")
    add("--write", action="store_true", help="write the csv files from what is recorded, and end")
    add_work_arguments(
        parser,
        timeout=120,
        retry_help="try those again that are recorded as bad, and the rows that --drop-bad took "
        "out: good ones come back",
    )


def run(arguments: argparse.Namespace) -> None:
    """Verifies the root; DataError (exit code 3) when more than --max-bad of it is bad."""
    root = read_root(arguments.root, arguments.videos)
    videos = take_shard(root.distinct(), arguments.shard)
    tried = videos
    if arguments.retry_bad:
        tried = [*videos, *take_shard([row["path"] for row in _dropped(root)], arguments.shard)]
    journal = shard_journal(root.path / JOURNAL, arguments.shard)
    redo = partial(_redo, fast=arguments.fast, retry_bad=arguments.retry_bad)
    stamp = partial(file_stamp, root=root.videos)
    if arguments.dry_run:
        todo = to_do(tried, Records(journal), stamp=stamp, redo=redo)
        print(
            f"{len(tried)} videos under {root.videos}: {len(tried) - len(todo)} are recorded, "
            f"{len(todo)} would be decoded by {arguments.jobs} processes into {journal}"
        )
        return
    if arguments.write:
        records = Records(journal)
    else:
        records = run_all(
            tried,
            partial(verify_video, videos=root.videos, fast=arguments.fast),
            journal=journal,
            jobs=arguments.jobs,
            timeout=arguments.timeout,
            unit="video",
            stamp=stamp,
            redo=redo,
            memory=arguments.memory << 20,
        )
    if arguments.shard[1] == 1:
        write_results(root, records, drop_bad=arguments.drop_bad, max_bad=arguments.max_bad)
    else:
        print(f"{journal}: done; after the last part run `verify {root.path} --write`")
    _require_few_bad(root, videos, records, arguments.max_bad)


def verify_video(path: str, *, videos: Path, fast: bool) -> dict[str, Any]:
    """What is in the video at `path`, relative to `videos`, as values of a record.

    Decodes every frame once without converting it, or with `fast` the first, the middle and the
    last. Raises BadItemError, with what was found before.
    """
    values: dict[str, Any] = {"fast": fast}
    try:
        with PyAVReader(videos / path, root=videos) as reader:
            values |= describe(reader)
            if fast:
                last = reader.num_frames - 1
                reader.frames([0, last // 2, last], each=_one_pixel)
            else:
                _decode_all(reader, values)
            values["rotation"] = reader.rotation
    except VideoDecodeError as error:
        kind = kind_of(error.reason, is_open="num_frames" in values)
        reason = error.reason
        if "decoded" in values:
            reason = f"frame {values['decoded']} of {values['num_frames']} {reason}"
        raise BadItemError(kind, reason, values) from error
    return values


def kind_of(reason: str, *, is_open: bool) -> str:
    """The kind of bad video that a VideoDecodeError's reason tells of, in a word or two.

    `is_open` is whether the file could be opened and indexed before.
    """
    unknown = "decoder error" if is_open else "damaged header"
    return next((kind for pattern, kind in _KINDS if re.search(pattern, reason)), unknown)


def write_results(root: Root, records: Records, *, drop_bad: bool, max_bad: float) -> None:
    """Writes bad.csv, the csv files with `COLUMNS` and summary.json, each atomically.

    With `drop_bad` rows of bad videos leave train.csv; their rows stay in bad.csv. When they are
    more than `max_bad` of it, as when a disk is not mounted, none is taken out: DataError.
    Rows dropped before whose videos are good by now come back, at the end of train.csv.
    """
    earlier = _dropped(root)
    back = [row for row in earlier if row["path"] in records and records[row["path"]].ok]
    dropped, total = 0, 0
    if drop_bad and "train" in root.splits:
        paths = root.splits["train"].strings["path"]
        dropped, total = sum(_is_bad(records, path) for path in paths), len(paths)
    too_many = dropped > max_bad * total
    drop = drop_bad and not too_many
    # A row is in bad.csv before it leaves train.csv, and the reverse: a kill loses none.
    _write_bad(root, records, earlier, drop_bad=drop)
    for split, table in root.splits.items():
        is_train = split == "train"
        returned = back if is_train else []
        _write_split(root, split, table, records, returned, drop_bad=drop and is_train)
    if back:
        left = [row for row in earlier if row not in back]
        _write_bad(root, records, left, drop_bad=drop)
    _write_summary(root, records, [row["path"] for row in back])
    if back:
        print(f"  {number_of(len(back), 'row')} dropped before came back into train.csv")
    if len(earlier) > len(back):
        rows = number_of(len(earlier) - len(back), "row")
        print(f"  {rows} dropped before, listed in bad.csv; --retry-bad tries them again")
    if drop and "train" in root.splits:
        columns = root.splits["train"].strings
        pairs = zip(columns["path"], columns["label"], strict=True)
        labels = [label for path, label in pairs if not _is_bad(records, path)]
        print_untrained(root.classes, [*labels, *(row["label"] for row in back)])
    if too_many:
        raise DataError(
            f"{root.path}: --drop-bad would take {dropped} of {total} rows out of train.csv, more "
            f"than --max-bad {max_bad:g}, and took out none; find the cause, or allow more"
        )


def describe(reader: PyAVReader) -> dict[str, Any]:
    """What the packets of a video tell without decoding, as values of a record."""
    index = reader.index
    seconds = index.num_frames / reader.fps if reader.fps else 0.0
    return {
        "num_frames": index.num_frames,
        "fps": round(reader.fps, 4),
        "width": reader.width,
        "height": reader.height,
        "duration": round(seconds, 3),
        "codec": reader.codec,
        "bytes": index.file_size,
        "keyframes": len(index.keyframes),
        "gop": _longest_gop(index),
        "index": index.to_text(),
    }


def _longest_gop(index: FrameIndex) -> int:
    """The most frames from one keyframe to the next, or to the end; 0 where it is not known."""
    if index.pts is None or not index.keyframes:
        return 0
    places = np.searchsorted(index.pts, [pts for pts, _ in index.keyframes])
    return int(np.diff([*places, index.num_frames]).max())


def _decode_all(reader: PyAVReader, values: dict[str, Any]) -> None:
    """Decodes every frame; VideoDecodeError or BadItemError where one fails or is damaged."""
    corrupt: list[int] = []
    decoded = 0
    size: tuple[int, int] | None = None
    try:
        for frame in reader.decode_all():
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                raise VideoDecodeError(reader.path, f"is no longer {size[0]}x{size[1]}")
            if frame.is_corrupt:
                corrupt.append(decoded)
            decoded += 1
    finally:
        values |= {"decoded": decoded, "corrupt": len(corrupt)}
    if decoded < reader.num_frames:
        raise BadItemError(
            "cut short", f"yields {decoded} of the {reader.num_frames} frames it lists", values
        )
    if corrupt:
        raise BadItemError(
            "damaged frames",
            f"{len(corrupt)} of {decoded} frames are damaged, the first is frame {corrupt[0]}",
            values,
        )


def _one_pixel(frame: np.ndarray) -> np.ndarray:
    return frame[:1, :1]


def _redo(record: Record, *, fast: bool, retry_bad: bool) -> bool:
    """Whether to verify again: after a fast look for a full one, and bad ones on demand."""
    return bool(record.values.get("fast")) > fast or (retry_bad and not record.ok)


def _is_bad(records: Records, path: str) -> bool:
    return records.is_bad(path)


def _write_split(
    root: Root,
    split: str,
    table: Columns,
    records: Records,
    returned: Sequence[Mapping[str, str]],
    *,
    drop_bad: bool,
) -> None:
    kept = [name for name in table.strings if name not in COLUMNS]
    at = kept.index("path")

    def rows() -> Iterator[list[str]]:
        for fields in zip(*(table.strings[name] for name in kept), strict=True):
            record = records.get(fields[at])
            if not (drop_bad and record is not None and not record.ok):
                yield [*fields, *fields_of(record)]
        for row in returned:
            yield [*(row.get(name, "") for name in kept), *fields_of(records[row["path"]])]

    write_rows(root.path / f"{split}.csv", [*kept, *COLUMNS], rows())


def fields_of(record: Record | None) -> list[str]:
    """The values of `COLUMNS`; empty where nothing is known."""
    if record is None:
        return [""] * len(COLUMNS)
    known: Mapping[str, Any] = {
        **record.values,
        "ok": int(record.ok),
        "error": record.error,
    }
    return [str(known.get(name, "")) for name in COLUMNS]


def _dropped(root: Root) -> list[dict[str, str]]:
    """The rows of bad.csv that left train.csv, and are not there again by a new index."""
    path = root.path / "bad.csv"
    if not path.is_file() or "train" not in root.splits:
        return []
    columns = read_columns(path, required=("path", "label", *_BAD_COLUMNS)).strings
    listed = set(root.splits["train"].strings["path"])
    rows = [
        dict(zip(columns, fields, strict=True)) for fields in zip(*columns.values(), strict=True)
    ]
    return [row for row in rows if row["dropped"] == "1" and row["path"] not in listed]


def _write_bad(
    root: Root, records: Records, earlier: Sequence[dict[str, str]], *, drop_bad: bool
) -> None:
    """Writes bad.csv: the bad rows of every split, and `earlier`, those dropped before."""
    path = root.path / "bad.csv"
    rows = list(earlier)
    for split, table in root.splits.items():
        names = [name for name in table.strings if name not in COLUMNS]
        for fields in zip(*(table.strings[name] for name in names), strict=True):
            row = dict(zip(names, fields, strict=True))
            if _is_bad(records, row["path"]):
                record = records[row["path"]]
                dropped = "1" if drop_bad and split == "train" else "0"
                told = {"split": split, "dropped": dropped}
                rows.append(row | told | {"kind": record.kind, "error": record.error})
    header = list(
        dict.fromkeys(["path", "label", *_BAD_COLUMNS, *(n for row in rows for n in row)])
    )
    write_rows(path, header, ([row.get(name, "") for name in header] for row in rows))


def _write_summary(root: Root, records: Records, returned: Sequence[str]) -> None:
    kinds: Counter[str] = Counter()
    seen = frames = size = fast = 0
    seconds = 0.0
    videos = list(dict.fromkeys([*root.distinct(), *returned]))
    for path in videos:
        record = records.get(path)
        if record is None:
            continue
        seen += 1
        kinds[record.kind] += 1
        frames += record.values.get("num_frames", 0)
        size += record.values.get("bytes", 0)
        seconds += record.values.get("duration", 0.0)
        fast += bool(record.values.get("fast"))
    good = kinds.pop("", 0)
    summary = {
        "videos": len(videos),
        "verified": seen,
        "fast": fast,
        "ok": good,
        "bad": seen - good,
        "kinds": dict(kinds.most_common()),
        "frames": frames,
        "hours": round(seconds / 3600, 3),
        "bytes": size,
        "versions": {"av": av.__version__, "libavcodec": library_version("libavcodec")},
    }
    add_to_summary(root.path, "verify", summary)
    print(
        f"{root.path}: {seen} of {number_of(len(videos), 'video')} verified, {good} good, "
        f"{seen - good} bad; {number_of(frames, 'frame')}, {length_text(seconds)}, "
        f"{size_text(size)}"
    )
    for kind, number in kinds.most_common():
        print(f"  {number} {kind}")
    if seen - good:
        print(f"  listed in {root.path / 'bad.csv'}")


def library_version(library: str) -> str:
    """The version of one of FFmpeg's libraries, such as "62.11.100"."""
    return ".".join(map(str, av.library_versions[library]))


def _require_few_bad(root: Root, videos: list[str], records: Records, max_bad: float) -> None:
    bad = [path for path in videos if _is_bad(records, path)]
    if len(bad) <= max_bad * len(videos):
        return
    for path in bad[:_SHOWN_BAD]:
        print(f"  {printable(f'{path}: {records[path].error}')}", file=sys.stderr)
    raise DataError(
        f"{root.path}: {len(bad)} of {len(videos)} videos are bad, more than --max-bad "
        f"{max_bad:g}; replace them, take them out with --drop-bad, or allow more"
    )
