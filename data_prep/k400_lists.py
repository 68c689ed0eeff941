"""The lists of a copy of Kinetics-400: train.csv and the others, and what is missing from them."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from data_prep.journal import Record, Records
from data_prep.k400_source import SPLITS, Clip, Match, match
from data_prep.k400_unpack import Task
from data_prep.roots import add_to_summary
from videogn.data.kinetics import kinetics400_classes
from videogn.data.manifest import write_manifest
from videogn.data.tables import write_text
from videogn.data.tar import list_members
from videogn.errors import DataError


def write_lists(task: Task, failed: Sequence[Record]) -> dict[str, Any]:
    """Writes the lists to the data root; returns what summary.json holds.

    They are train.csv, val.csv, test.csv, classes.txt and source.txt; unlabelled.csv, the test
    videos whose label is not known; missing.csv, the rows without a file; ignored.txt, the files
    without a row. Raises DataError when no video has a row, and for a csv of another copy.
    """
    root = _video_root(task)
    paths = [*_unpacked(task, root), *_loose(task, root)]
    found = match(paths, task.clips, {archive.role for archive in task.copy.archives})
    unlabelled = [row for row in found.rows["test"] if not row["label"]]
    labelled = {split: [row for row in found.rows[split] if row["label"]] for split in SPLITS}
    rows = {split: listed for split, listed in labelled.items() if listed}
    if not rows:
        raise DataError(
            f"{task.copy.source}: none of its {len(paths)} videos has a row with a label in the "
            "annotations; check both"
        )
    for split in SPLITS:
        stale = task.out / f"{split}.csv"
        if split not in rows and stale.exists():
            raise DataError(f"{stale}: is of another copy, this one has no {split}; remove it")
    inside = root.is_relative_to(task.out)
    source = root.relative_to(task.out) if inside else root  # so that the root can be moved
    write_manifest(task.out, splits=rows, classes=kinetics400_classes(), source=source)
    _write_csv(task.out / "unlabelled.csv", [_without_label(row) for row in unlabelled])
    missing = sorted(found.missing, key=lambda clip: (SPLITS.index(clip.split), clip.video))
    _write_csv(task.out / "missing.csv", [_missing_row(clip) for clip in missing])
    lines = "".join(f"{path}\t{reason}\n" for path, reason in found.ignored.items())
    write_text(task.out / "ignored.txt", lines)
    summary = _summary(task, found, failed)
    add_to_summary(task.out, "k400", summary)
    return summary


def _video_root(task: Task) -> Path:
    """The folder that all videos, unpacked and loose, lie under."""
    if not task.copy.videos:
        return task.videos
    if not task.copy.archives:
        return task.copy.source
    shared = Path(os.path.commonpath([task.videos, task.copy.source]))
    if shared == Path(shared.anchor):
        raise DataError(
            f"{task.copy.source}: holds loose videos that share no folder with {task.videos}; "
            "choose --videos beside it"
        )
    return shared


def _unpacked(task: Task, root: Path) -> Iterator[str]:
    """The paths, relative to `root`, of the videos that were unpacked."""
    for target in (task.videos / name for name in task.targets.values()):
        if not target.exists():
            continue  # of an archive that failed
        base = target.relative_to(root).as_posix()
        if task.as_tars:
            yield from (f"{base}::{name}" for name, _ in list_members(str(target)))
            continue
        for folder, folders, names in os.walk(target):
            folders.sort()
            inside = Path(folder).relative_to(target)
            yield from (f"{base}/{(inside / name).as_posix()}" for name in sorted(names))


def _loose(task: Task, root: Path) -> list[str]:
    return [(task.copy.source / path).relative_to(root).as_posix() for path in task.copy.videos]


def _without_label(row: dict[str, str]) -> dict[str, str]:
    path, *others = [item for item in row.items() if item[0] not in ("label", "label_id")]
    return dict([path, ("split", "test"), *others])


def _missing_row(clip: Clip) -> dict[str, str]:
    return {
        "split": clip.split,
        "youtube_id": clip.video,
        "start": clip.start,
        "end": clip.end,
        "label": clip.label,
    }


def _summary(task: Task, found: Match, failed: Sequence[Record]) -> dict[str, Any]:
    """What became of everything; without times, so that a resumed run gives the same."""
    records = Records(task.journal)
    done = [records[path] for path in task.targets if path in records and records[path].ok]
    missing = [clip.split for clip in found.missing]
    left_out = {record.item: record.values["left_out"] for record in done}
    return {
        "videos": {split: len(rows) for split, rows in found.rows.items()},
        "missing": {split: missing.count(split) for split in SPLITS},
        "ignored": len(found.ignored),
        "archives": {
            "unpacked": len(done),
            "files": sum(record.values["files"] for record in done),
            "bytes": sum(record.values["bytes"] for record in done),
            "failed": {record.item: record.error for record in failed},
            "without_videos": [record.item for record in done if not record.values["files"]],
            "members_left_out": {item: names for item, names in left_out.items() if names},
        },
        "classes_without_videos": {
            split: _unused_classes(rows) for split, rows in found.rows.items() if rows
        },
    }


def _unused_classes(rows: Sequence[dict[str, str]]) -> list[str]:
    used = {row["label"] for row in rows}
    return [name for name in kinetics400_classes() if name not in used]


def _write_csv(path: Path, rows: Sequence[dict[str, str]]) -> None:
    """Writes the rows; without any the file is removed, so that none is left from before."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
