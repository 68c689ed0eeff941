"""A folder of videos -> a data root: who is a video, what is its label, which split is it in."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from data_prep.arguments import fraction
from data_prep.classes import Entry, name_labels, renumbered
from data_prep.index_files import OWN_FILES, Index, print_summary, write_index
from data_prep.layouts import LAYOUTS, read_names, read_tree, recognize
from data_prep.listing import Found, Listing
from data_prep.lists import read_class_names
from data_prep.progress import number_of
from data_prep.resolve import why_missing
from data_prep.scan import Scan, scan_videos
from data_prep.splitting import (
    by_first_folder,
    keep_few,
    merge_repeated,
    refuse_shared,
    split_positions,
)
from videogn.cli.arguments import count, place, seed
from videogn.data.kinetics import clip_fields, has_video_id, kinetics400_classes, spelling
from videogn.data.manifest import read_table
from videogn.errors import DataError

LABEL_RULES = ("folder", "filename", "csv")
_DEFAULT_VAL = 0.1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    names = ", ".join(f"{layout.name} ({layout.summary})" for layout in LAYOUTS)
    add("source", metavar="SRC", type=place, help="the folder that holds the videos")
    add("--out", metavar="DIR", type=place, required=True, help="the data root to write")
    choices = ["auto", *(layout.name for layout in LAYOUTS)]
    add("--layout", choices=choices, default="auto", help=f"how SRC is laid out: auto, {names}")
    add(
        "--list",
        metavar="FILE",
        type=place,
        action="append",
        default=[],
        dest="lists",
        help="a list of paths and labels, of any project; its name or a column tells the split; "
        "may be repeated",
    )
    add(
        "--annotations",
        metavar="FILE",
        type=place,
        action="append",
        default=[],
        help="a csv of Kinetics' annotations; may be repeated",
    )
    add("--classes", metavar="FILE", help="the class names by id; kinetics400: those of Kinetics")
    add("--first-label", type=int, choices=(0, 1), help="the number of the first class in lists")
    add("--split-number", metavar="N", type=count, default=1, help="split of UCF-101, HMDB-51 (1)")
    add("--label-from", choices=LABEL_RULES, help="take labels from there, whatever the layout")
    add("--csv", metavar="FILE", type=place, help="take labels from there: columns path,label")
    add(
        "--val",
        metavar="FRACTION",
        type=fraction,
        help="hold out this share, whatever the layout says (0.1 where it says nothing)",
    )
    add("--split-folders", action="store_true", help="the folders train and val of SRC decide")
    add("--val-same", action="store_true", help="validate on the training videos")
    add("--limit-classes", metavar="N", type=count, help="only the first N classes")
    add("--per-class", metavar="N", type=count, help="at most N videos of a class in each split")
    add("--seed", type=seed, default=0, help="which videos are held out or kept (0)")
    add("--fast", action="store_true", help="trust suffixes: do not look into each file")
    add("--dry-run", action="store_true", help="say what would be written; write nothing")


def run(arguments: argparse.Namespace) -> None:
    """Writes the data root and prints a summary."""
    index = make_index(arguments)
    if not arguments.dry_run:
        write_index(index, arguments.out)
    print_summary(index, arguments.out, dry_run=arguments.dry_run)


def make_index(arguments: argparse.Namespace) -> Index:
    """The index that the command line asks for; nothing is written.

    Raises DataError when there is no video, a label is missing or unknown, a video has two labels,
    or a training video is in validation too.
    """
    own = {arguments.out.resolve() / name for name in OWN_FILES}
    source = arguments.source.resolve()
    skip = own | {path.resolve() for path in (arguments.csv,) if path} | {source / "classes.txt"}
    scan = scan_videos(arguments.source, skip=skip, fast=arguments.fast)
    listing, layout = _read_layout(arguments, scan)
    if not listing.entries:
        raise _nothing_found(listing, scan, layout)
    entries, classes = name_labels(
        scan.source,
        listing.entries,
        given=_given_classes(arguments.classes),
        beside=listing.classes,
        first=arguments.first_label,
    )
    entries, repeated = merge_repeated(entries)
    unlabelled = [entry for entry in entries if not entry.label]
    entries = _with_columns([entry for entry in entries if entry.label], classes)
    index = Index(
        source=scan.source,
        layout=layout,
        splits=_split(arguments, scan, entries),
        classes=classes,
        missing=listing.missing,
        ignored=_left_out(scan, listing),
        unlabelled=unlabelled,
    )
    moved = renumbered(listing.entries, index.classes, entries)
    if moved:
        has = "1 class has" if moved == 1 else f"{moved} classes have"
        index.notes.append(f"{has} another id here than in the list: names count")
    if repeated:
        repeat = (
            "1 row repeats an earlier one and is"
            if repeated == 1
            else (f"{repeated} rows repeat an earlier one and are")
        )
        index.notes.append(f"{repeat} left out")
    if not arguments.val_same:
        refuse_shared(index.splits.get("train", []), index.splits.get("val", []))
    _cut_down(index, arguments)
    return index


def _read_layout(arguments: argparse.Namespace, scan: Scan) -> tuple[Listing, str]:
    """What the layout says, and which one that is, in words."""
    rule = arguments.label_from or ("csv" if arguments.csv else None)
    if arguments.csv and rule != "csv":
        raise DataError(f"--csv: labels are taken from the {rule}; give one of the two options")
    if arguments.lists and arguments.annotations:
        raise DataError("--annotations: says the same as --list; give one of the two")
    found = Found(scan, arguments.lists, arguments.annotations, arguments.split_number)
    if rule == "csv":
        if arguments.csv is None:
            raise DataError("--label-from csv: no csv file given; add --csv FILE")
        return _read_csv(scan, arguments.csv), f"labels from {arguments.csv}"
    if rule == "filename":
        return read_names(found), "labels from file names"
    if rule == "folder":
        return read_tree(found), "labels from folders"
    if arguments.layout == "auto":
        layout, reason = recognize(found)
        return layout.read(found), f"{layout.name} ({reason})"
    layout = next(layout for layout in LAYOUTS if layout.name == arguments.layout)
    if not layout.recognize(found) and layout.name != "tree":
        raise DataError(
            f"{scan.source}: is not laid out as {layout.name} ({layout.summary}); choose another "
            "--layout, or give its lists with --list or --annotations"
        )
    return layout.read(found), f"{layout.name} (--layout)"


def _read_csv(scan: Scan, table: Path) -> Listing:
    """The labels that the csv file `table` gives, which must list the videos and no others."""
    entries: dict[str, Entry] = {}
    known = set(scan.videos)
    for row in read_table(table):
        path, label = os.path.normpath(row.fields["path"]).replace(os.sep, "/"), row.fields["label"]
        if path not in known:
            raise DataError(
                f"{row.place}: {path!r} is no video under {scan.source}; remove the row"
            )
        if not label:
            raise DataError(f"{row.place}: {path!r} has no label; write one")
        if entries.setdefault(path, Entry(path, label, "", row.place)).label != label:
            raise DataError(
                f"{row.place}: {path!r} is {entries[path].label!r} further up; keep one label"
            )
    missing = [path for path in scan.videos if path not in entries]
    if missing:
        raise DataError(
            f"{table}: has no row for {missing[0]!r} and {len(missing) - 1} other videos; add them "
            f"or move them out of {scan.source}"
        )
    return Listing(list(entries.values()))


def _given_classes(name: str | None) -> tuple[str, ...] | None:
    if name is None:
        return None
    return kinetics400_classes() if name == "kinetics400" else read_class_names(Path(name))


def _with_columns(entries: Sequence[Entry], classes: Sequence[str]) -> list[Entry]:
    """The entries with id, start and end of the video if they, and no others, are of Kinetics."""
    if any(entry.fields for entry in entries):
        return list(entries)
    spellings = {spelling(name) for name in kinetics400_classes()}
    if not {spelling(name) for name in classes} <= spellings:
        return list(entries)
    if not all(has_video_id(entry.path) for entry in entries):
        return list(entries)
    return [replace(entry, fields=clip_fields(entry.path)) for entry in entries]


def _split(
    arguments: argparse.Namespace, scan: Scan, entries: Sequence[Entry]
) -> dict[str, list[Entry]]:
    """The videos of each split, sorted by path; without validation videos there is no "val"."""
    entries = sorted(entries, key=lambda entry: entry.path)
    if arguments.split_folders:
        entries = by_first_folder(str(scan.source), entries)
    test = [entry for entry in entries if entry.split == "test"]
    rest = [entry for entry in entries if entry.split != "test"]
    if arguments.val_same:
        return {"train": rest, "val": rest} | ({"test": test} if test else {})
    is_split = any(entry.split for entry in rest)
    if arguments.val is not None or not is_split:
        share = _DEFAULT_VAL if arguments.val is None else arguments.val
        positions = split_positions([entry.label for entry in rest], share, arguments.seed)
        train, val = ([rest[at] for at in half] for half in positions)
    else:
        train = [entry for entry in rest if entry.split != "val"]
        val = [entry for entry in rest if entry.split == "val"]
        if not val:  # sets of two halves, such as UCF-101, call the second one test
            val, test = test, []
    splits = {"train": train, "val": val, "test": test}
    return {split: videos for split, videos in splits.items() if videos}


def _cut_down(index: Index, arguments: argparse.Namespace) -> None:
    """Leaves of `index` what --limit-classes and --per-class want."""
    if arguments.limit_classes is not None:
        used = {entry.label for entries in index.splits.values() for entry in entries}
        kept = [name for name in index.classes if name in used][: arguments.limit_classes]
        index.classes = tuple(kept)
        for split, entries in index.splits.items():
            index.splits[split] = [entry for entry in entries if entry.label in kept]
        index.splits = {split: entries for split, entries in index.splits.items() if entries}
    if arguments.per_class is not None:
        for split, entries in index.splits.items():
            index.splits[split] = keep_few(entries, arguments.per_class, arguments.seed)


def _left_out(scan: Scan, listing: Listing) -> dict[str, str]:
    """The files that are in no split, with the reason; lists that were read have served."""
    used = {path.resolve() for path in listing.used}
    others = {
        path: reason
        for path, reason in scan.ignored.items()
        if scan.source / path not in used and path not in scan.notes
    }
    return dict(sorted((others | listing.ignored).items()))


def _nothing_found(listing: Listing, scan: Scan, layout: str) -> DataError:
    if listing.missing:
        row, others = listing.missing[0], len(listing.missing) - 1
        nor = f", nor is that of {number_of(others, 'other row')}" if others else ""
        return DataError(
            f"{row.place}: {row.path!r} is no video under {scan.source} "
            f"({why_missing(scan.source, row)}){nor}; check the folder, or choose another layout "
            f"than {layout} with --layout"
        )
    path, reason = next(iter(listing.ignored.items()))
    return DataError(
        f"{scan.source}: none of its {len(scan.videos)} videos can be used as {layout}; the first, "
        f"{path!r}: {reason}"
    )
