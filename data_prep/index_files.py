"""An index of videos as the files of a data root, and as a summary on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.classes import Entry
from data_prep.lists import Listed
from data_prep.progress import number_of
from data_prep.resolve import why_missing
from data_prep.roots import SPLITS, print_untrained, write_rows
from videogn.data.manifest import write_manifest, write_text
from videogn.errors import DataError
from videogn.report.text import printable

OWN_FILES = (
    *("train.csv", "val.csv", "test.csv", "classes.txt", "source.txt", "ignored.txt"),
    *("missing.csv", "unlabelled.csv"),
)
_SHOWN = 10  # files of each kind that are printed; the rest is in the lists


@dataclass
class Index:
    """What is to be written.

    Attributes:
        source: the folder that paths are relative to.
        layout: which layout was taken, and why.
        splits: the videos of each split, their labels class names.
        classes: all class names, by id.
        missing: rows of lists without a file.
        ignored: files left out, by relative path, with the reason.
        unlabelled: test videos without a label.
        notes: what else there is to say.
    """

    source: Path
    layout: str
    splits: dict[str, list[Entry]]
    classes: tuple[str, ...]
    missing: list[Listed]
    ignored: dict[str, str]
    unlabelled: list[Entry]
    notes: list[str] = field(default_factory=list)


def write_index(index: Index, out: Path) -> None:
    """Writes `index` as a data root to `out`, with the lists of what was left out."""
    for split in SPLITS:
        _refuse_foreign(out / f"{split}.csv", is_written=split in index.splits)
    ids = {name: str(number) for number, name in enumerate(index.classes)}
    rows = {
        split: [_row(entry, ids) for entry in entries] for split, entries in index.splits.items()
    }
    _forget_dropped(out / "bad.csv")
    write_manifest(out, splits=rows, classes=index.classes, source=index.source)
    one_line = {path.replace("\n", "\\n"): reason for path, reason in index.ignored.items()}
    lines = "".join(f"{path}\t{reason}\n" for path, reason in one_line.items())
    # A name that is not UTF-8 is one of the reasons to be in this list.
    if lines:
        write_text(out / "ignored.txt", lines.encode("utf-8", "backslashreplace").decode())
    else:
        (out / "ignored.txt").unlink(missing_ok=True)
    _write_rows(
        out / "missing.csv",
        ("path", "label", "split", "place", "reason"),
        [
            (row.path, row.label, row.split, row.place, why_missing(index.source, row))
            for row in index.missing
        ],
    )
    _write_rows(
        out / "unlabelled.csv", ("path", "split"), [(e.path, e.split) for e in index.unlabelled]
    )


def _row(entry: Entry, ids: Mapping[str, str]) -> dict[str, str]:
    row = {"path": entry.path, "label": entry.label, "label_id": ids[entry.label]}
    return row | dict(entry.fields)


def _refuse_foreign(file: Path, *, is_written: bool) -> None:
    """Raises DataError for a list in the place of ours: one of another project, or an older one."""
    if not file.exists():
        return
    if not is_written:
        raise DataError(f"{file}: is of another index; remove it, or choose a split with --val")
    with file.open("rb") as lines:
        header = lines.readline(200).decode("utf-8", "replace").lstrip("\ufeff").split(",")
    if not {"path", "label"} <= {name.strip(' "\r\n') for name in header}:
        raise DataError(f"{file}: is no list of ours and would be replaced; choose another --out")


def _forget_dropped(file: Path) -> None:
    """Removes the bad.csv of `verify`: its rows, of another train.csv, must not come back here."""
    if file.is_file():
        with file.open("rb") as lines:
            header = lines.readline(4096).decode("utf-8", "replace").strip().split(",")
        if {"split", "dropped", "kind"} <= set(header):
            file.unlink()


def _write_rows(file: Path, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if rows:
        write_rows(file, header, rows)
    else:
        file.unlink(missing_ok=True)


def print_summary(index: Index, out: Path, *, dry_run: bool) -> None:
    """Prints what was found, in how many classes and splits, and what was left out."""
    everything = {entry.path: entry for entries in index.splits.values() for entry in entries}
    used = len({entry.label for entry in everything.values()})
    print(f"layout: {index.layout}")
    classes = number_of(len(index.classes), "class", "classes")
    print(f"{out}: {number_of(len(everything), 'video')} in {used} of {classes}")
    for split, entries in index.splits.items():
        print(f"  {split}.csv: {number_of(len(entries), 'video')}")
    labels = [entry.label for entry in index.splits.get("train", [])]
    print_untrained(index.classes, labels)
    if "val" not in index.splits and len(set(labels)) == len(labels):
        print(
            "  There is no val.csv: each class has one video, and training needs it; --val-same "
            "lists the videos of train.csv there again."
        )
    elif "val" not in index.splits:
        print(
            "  There is no val.csv: no video is held out; --val FRACTION holds some out, "
            "--val-same lists those of train.csv there again."
        )
    for note in index.notes:
        print(f"  {note}")
    if index.unlabelled:
        videos = number_of(len(index.unlabelled), "test video")
        print(f"  {videos} without a label: {out / 'unlabelled.csv'}")
    missing = [
        f"{row.path} ({row.place}): {why_missing(index.source, row)}"
        for row in index.missing[: _SHOWN + 1]
    ]
    _print_some(
        number_of(len(index.missing), "row"), "without a video", out / "missing.csv", missing
    )
    ignored = [f"{path}: {reason}" for path, reason in index.ignored.items()]
    _print_some(number_of(len(ignored), "file"), "ignored", out / "ignored.txt", ignored)
    if dry_run:
        print("  nothing was written (--dry-run)")


def _print_some(number: str, what: str, file: Path, lines: Sequence[str]) -> None:
    if not lines:
        return
    print(f"  {number} {what}, listed in {file}:")
    for line in lines[:_SHOWN]:
        print(f"    {printable(line)}")
    if len(lines) > _SHOWN:
        print("    ...")
