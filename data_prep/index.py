"""A folder of videos -> a data root: who is a video, what is its label, which split is it in."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from data_prep.arguments import fraction
from videogn.data.decode import is_video
from videogn.data.manifest import (
    check_classes,
    kinetics400_classes,
    read_classes,
    read_table,
    write_manifest,
    write_text,
)
from videogn.errors import DataError

LABEL_RULES = ("folder", "filename", "csv")
# A copy of Kinetics-400 may lack a few classes; a set of its own may share a few names with it.
_KINETICS_MIN_CLASSES = 300
_OWN_FILES = ("train.csv", "val.csv", "classes.txt", "source.txt", "ignored.txt")
_SHOWN_IGNORED = 10  # the rest is in ignored.txt


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    add = parser.add_argument
    add("source", metavar="SRC", type=Path, help="the folder that holds the videos")
    add("--out", metavar="DIR", type=Path, required=True, help="the data root to write")
    add("--label-from", choices=LABEL_RULES, required=True, help="where a video's label is found")
    add("--csv", metavar="FILE", type=Path, help="for --label-from csv: columns path,label")
    add("--val", metavar="FRACTION", type=fraction, default=0.1, help="share held out (0.1)")
    add("--split-folders", action="store_true", help="the folders train and val of SRC decide")
    add("--val-same", action="store_true", help="validate on the training videos")
    add("--seed", type=int, default=0, help="which videos are held out (0)")


def run(arguments: argparse.Namespace) -> None:
    """Writes the data root and prints a summary."""
    index = index_videos(
        arguments.source, arguments.out, label_from=arguments.label_from, table=arguments.csv
    )
    everything = list(range(len(index.paths)))
    if arguments.val_same:
        index.splits = {"train": everything, "val": everything}
    else:
        if arguments.split_folders:
            train, val = split_folders(index.source, index.paths)
        else:
            train, val = split_positions(index.labels, arguments.val, arguments.seed)
        index.splits = {"train": train, "val": val} if val else {"train": train}
    write_index(index, arguments.out)
    _print_summary(index, arguments.out)


@dataclass
class Index:
    """What was found under `source`.

    Attributes:
        paths: the videos, relative to `source`, with `/`.
        labels: the class name of each.
        classes: all class names, by id.
        ignored: files left out, by relative path, with the reason.
        splits: positions in `paths` by split.
    """

    source: Path
    paths: list[str]
    labels: list[str]
    classes: tuple[str, ...]
    ignored: dict[str, str]
    splits: dict[str, list[int]] = field(default_factory=dict)


def index_videos(source: Path, out: Path, *, label_from: str, table: Path | None = None) -> Index:
    """The videos under `source` with their labels; `splits` is left empty.

    `label_from` is one of `LABEL_RULES`: the name of the folder a video lies in, its file name
    without suffix, or the rows of the csv file `table`. Nothing is written. Raises DataError when
    there is no video, or a label is missing or unknown.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder; give the folder that holds the videos")
    source = source.resolve()
    own = {out.resolve() / name for name in _OWN_FILES} | {source / "classes.txt"}
    paths, ignored = find_videos(source, skip=own | ({table.resolve()} if table else set()))
    if not paths:
        raise DataError(f"{source}: holds no video ({len(ignored)} other files); check the folder")
    if label_from == "csv":
        if table is None:
            raise DataError("--label-from csv: no csv file given; add --csv FILE")
        labels = _labels_from_table(source, paths, table)
    else:
        labels = [_label_from_path(source, path, label_from) for path in paths]
    labels, classes = name_classes(source, labels)
    return Index(source, paths, labels, classes, ignored)


def find_videos(source: Path, *, skip: set[Path]) -> tuple[list[str], dict[str, str]]:
    """The videos below `source`, sorted, and the other files with the reason they are none.

    Both by path relative to `source`. The content decides, not the suffix. Links to folders are
    not followed, nor links to files outside. Files in `skip` are in neither.
    """
    videos: list[str] = []
    ignored: dict[str, str] = {}
    for file in _walk(source):
        if file in skip:
            continue
        path = file.relative_to(source).as_posix()
        reason = _why_no_video(source, file)
        if reason:
            ignored[path] = reason
        else:
            videos.append(path)
    return sorted(videos), dict(sorted(ignored.items()))


def name_classes(source: Path, labels: Sequence[str]) -> tuple[list[str], tuple[str, ...]]:
    """The label of each video as a class name, and all class names by id.

    The classes are those of Kinetics-400, in its order, if the labels are (spelling aside), else
    those of `source`/classes.txt, else the sorted labels.
    """
    found = sorted(set(labels))
    spellings = {_spelling(label) for label in found}
    if len(spellings) >= _KINETICS_MIN_CLASSES:
        kinetics = {_spelling(name): name for name in kinetics400_classes()}
        if spellings <= kinetics.keys():
            return [kinetics[_spelling(label)] for label in labels], kinetics400_classes()
    listed = source / "classes.txt"
    if not listed.is_file():
        return list(labels), check_classes(found, str(source))
    classes = read_classes(listed)
    for label in found:
        if label not in classes:
            raise DataError(f"{listed}: lacks the class {label!r} of a video; add or remove it")
    return list(labels), classes


def split_positions(
    labels: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Positions of `labels` for training and for validation, disjoint, both sorted.

    About `fraction` of each class is for validation, in total as near as rounding allows, but
    never the last video of a class. Which ones, `seed` decides.
    """
    rng = np.random.default_rng(seed)
    by_class: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    val: list[int] = []
    seen = 0
    for label in sorted(by_class):
        members = rng.permutation(by_class[label]).tolist()
        # Rounding the running total, not each class, also serves classes of few videos.
        take = round((seen + len(members)) * fraction) - round(seen * fraction)
        val += members[: min(take, len(members) - 1)]
        seen += len(members)
    return sorted(set(range(len(labels))) - set(val)), sorted(val)


def split_folders(source: Path, paths: Sequence[str]) -> tuple[list[int], list[int]]:
    """Positions of `paths` for training and for validation, by the first folder of each path.

    It must begin with `train` or with `val`, as copies of Kinetics have it (train, train_256, val,
    validation); DataError names the first path where it does not.
    """
    splits: dict[str, list[int]] = {"train": [], "val": []}
    for position, path in enumerate(paths):
        first = path.split("/")[0].lower()
        name = next((name for name in splits if "/" in path and first.startswith(name)), None)
        if name is None:
            raise DataError(
                f"{source / path}: lies in no folder train or val of {source}; move it, or choose "
                "the split with --val FRACTION"
            )
        splits[name].append(position)
    return splits["train"], splits["val"]


def write_index(index: Index, out: Path) -> None:
    """Writes `index` as a data root to `out`: csv files, classes.txt, source.txt, ignored.txt."""
    stale = out / "val.csv"
    if "val" not in index.splits and stale.exists():
        raise DataError(f"{stale}: is of another index; remove it, or choose a split with --val")
    rows = {
        split: [{"path": index.paths[at], "label": index.labels[at]} for at in positions]
        for split, positions in index.splits.items()
    }
    write_manifest(out, splits=rows, classes=index.classes, source=index.source)
    if index.ignored:
        lines = "".join(f"{path}\t{reason}\n" for path, reason in index.ignored.items())
        # A name that is not UTF-8 is one of the reasons to be in this list.
        write_text(out / "ignored.txt", lines.encode("utf-8", "backslashreplace").decode())
    else:
        (out / "ignored.txt").unlink(missing_ok=True)


def _walk(source: Path) -> Iterator[Path]:
    """All files below `source`, and the links to folders, which are not entered."""
    for folder, folders, files in os.walk(source):
        folders.sort()
        for name in sorted(files) + [name for name in folders if Path(folder, name).is_symlink()]:
            yield Path(folder, name)


def _why_no_video(source: Path, file: Path) -> str:
    """The reason to leave `file` out, empty for a video."""
    try:
        str(file).encode()
    except UnicodeEncodeError:
        return "its name is not UTF-8"
    if file.is_symlink() and not file.resolve().is_relative_to(source):
        return "a link out of the folder"
    if file.is_dir():
        return "a link to a folder"
    try:
        return "" if is_video(file) else "no video by its content"
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def _label_from_path(source: Path, path: str, rule: str) -> str:
    relative = Path(path)
    if rule == "filename":
        return relative.stem
    if relative.parent == Path():
        raise DataError(
            f"{source / path}: lies in no class folder; move it into one, or use --label-from "
            "filename or csv"
        )
    return relative.parent.name


def _labels_from_table(source: Path, paths: Sequence[str], table: Path) -> list[str]:
    """The label of each path by the csv file `table`, which must list these and no others."""
    labels: dict[str, str] = {}
    known = set(paths)
    for row in read_table(table):
        path, label = os.path.normpath(row.fields["path"]).replace(os.sep, "/"), row.fields["label"]
        if path not in known:
            raise DataError(f"{row.place}: {path!r} is no video under {source}; remove the row")
        if not label:
            raise DataError(f"{row.place}: {path!r} has no label; write one")
        if labels.setdefault(path, label) != label:
            raise DataError(f"{row.place}: {path!r} is {labels[path]!r} further up; keep one label")
    missing = [path for path in paths if path not in labels]
    if missing:
        raise DataError(
            f"{table}: has no row for {missing[0]!r} and {len(missing) - 1} other videos; add them "
            f"or move them out of {source}"
        )
    return [labels[path] for path in paths]


def _spelling(name: str) -> str:
    """`name` without what copies of Kinetics-400 write differently: case, blanks, punctuation."""
    return re.sub("[^a-z0-9]+", "", name.lower())


def _print_summary(index: Index, out: Path) -> None:
    used = len(set(index.labels))
    print(f"{out}: {len(index.paths)} videos in {used} of {len(index.classes)} classes")
    for split, positions in index.splits.items():
        print(f"  {split}.csv: {len(positions)} videos")
    if "val" not in index.splits:
        print("  no val.csv: no video is held out (--val FRACTION or --val-same would)")
    if index.ignored:
        print(f"  ignored {len(index.ignored)} files, listed in {out / 'ignored.txt'}:")
        for path, reason in list(index.ignored.items())[:_SHOWN_IGNORED]:
            print(f"    {ascii(path)[1:-1]}: {reason}")
        if len(index.ignored) > _SHOWN_IGNORED:
            print("    ...")
