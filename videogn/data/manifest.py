"""The data root: which videos there are, their labels, and where they lie.

A data root is a folder with
    train.csv, val.csv   header `path,label`; further columns are kept
    classes.txt          one name a line; the number of the line, from 0, is the class id
    source.txt           optional: the folder that the paths are relative to (the video root)
"""

from __future__ import annotations

import csv
import io
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PureWindowsPath

import numpy as np

from videogn.data.decode import has_scheme
from videogn.errors import DataError

_PREPARE = "python -m data_prep index SRC --out {root} --label-from folder --val 0.1"


@dataclass(frozen=True)
class Manifest:
    """The videos of one split.

    Attributes:
        name: the csv file it was read from, for messages.
        paths: as written, relative to `videos`.
        labels: int64 (N,), class ids.
        classes: the names, by class id.
        videos: the video root, absolute.
        columns: the further columns of the csv, each with N entries.
    """

    name: str
    paths: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    videos: Path
    columns: dict[str, list[str]]

    def __len__(self) -> int:
        return len(self.paths)


@dataclass(frozen=True)
class Row:
    """One row of a csv file: its fields by column, and `place`, its file:line, for messages."""

    place: str
    fields: dict[str, str]


def read_manifest(root: Path, split: str, *, videos: Path | None = None) -> Manifest:
    """The manifest of `split` ("train" or "val") of the data root `root`.

    A label is a class name or else a class id. `videos` overrides `source.txt`. That the videos
    exist is not checked here: 260,000 look-ups would delay every start.
    Raises DataError, naming file and line, for anything missing or malformed.
    """
    root, table = Path(root), Path(root) / f"{split}.csv"
    if not table.is_file():
        missing = f"{table}: no such file" if root.is_dir() else f"{root}: no such data root"
        command = _PREPARE.format(root=root)
        raise DataError(f"{missing}; prepare one, of Kinetics-400 too, with `{command}`")
    classes = read_classes(root / "classes.txt")
    rows = read_table(table)
    if not rows:
        raise DataError(f"{table}: lists no video; add rows or prepare it again")
    ids = {name: number for number, name in enumerate(classes)}
    labels = [_class_id(row, ids) for row in rows]
    paths = [_relative_path(row) for row in rows]
    _refuse_two_labels(rows, labels)
    names = [name for name in rows[0].fields if name not in ("path", "label")]
    return Manifest(
        name=str(table),
        paths=paths,
        labels=np.array(labels, dtype=np.int64),
        classes=classes,
        videos=_video_root(root, videos),
        columns={name: [row.fields[name] for row in rows] for name in names},
    )


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in a file of one name a line; DataError if empty, blank or repeated."""
    lines = _read_text(path).splitlines()
    return check_classes([line.strip() for line in lines], str(path))


def check_classes(names: Sequence[str], source: str) -> tuple[str, ...]:
    """`names` if each fits on a line of classes.txt and comes once, else DataError.

    `source` is the file or folder the names are from, for the message.
    """
    if not names:
        raise DataError(f"{source}: holds no class name; write one name a line")
    seen: dict[str, int] = {}
    for line, name in enumerate(names, start=1):
        if not name or name.strip() != name or len(name.splitlines()) != 1:
            raise DataError(f"{source}:{line}: {name!r} is no class name; write one name a line")
        if name in seen:
            raise DataError(
                f"{source}:{line}: class {name!r} is also on line {seen[name]}; names must differ"
            )
        seen[name] = line
    return tuple(names)


@cache
def kinetics400_classes() -> tuple[str, ...]:
    """The 400 class names of Kinetics-400 in the order of their ids."""
    return read_classes(Path(__file__).with_name("kinetics400_classes.txt"))


def read_table(path: Path) -> list[Row]:
    """The rows of a csv file with at least the columns `path` and `label`, each with its line.

    A byte order mark, CRLF, quotes and empty lines are accepted. Raises DataError otherwise.
    """
    reader = csv.reader(io.StringIO(_read_text(path), newline=""), strict=True)
    rows: list[Row] = []
    try:
        header = next(reader, [])
        _check_header(path, header)
        for fields in reader:
            place = f"{path}:{reader.line_num}"
            if not fields:
                continue
            if len(fields) != len(header):
                raise DataError(
                    f"{place}: {len(fields)} fields where the header has {len(header)}; "
                    "quote a field that holds a comma"
                )
            rows.append(Row(place, dict(zip(header, fields, strict=True))))
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: is no valid csv ({error}); fix it") from error
    return rows


def write_manifest(
    root: Path,
    *,
    splits: Mapping[str, Sequence[Mapping[str, str]]],
    classes: Sequence[str],
    source: Path | None,
) -> None:
    """Writes classes.txt, source.txt and one csv a split to the folder `root`, each atomically.

    Each row holds `path`, `label` and the same further columns. Without a `source` the paths are
    relative to `root`, and a source.txt from before is removed. Raises DataError for a class name
    that does not fit on one line.
    """
    root.mkdir(parents=True, exist_ok=True)
    check_classes(classes, str(root / "classes.txt"))
    write_text(root / "classes.txt", "".join(f"{name}\n" for name in classes))
    if source is None:
        (root / "source.txt").unlink(missing_ok=True)
    else:
        write_text(root / "source.txt", f"{source}\n")
    for split, rows in splits.items():
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["path", "label"])
        writer.writeheader()
        writer.writerows(rows)
        write_text(root / f"{split}.csv", text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 so that `path` holds the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); prepare it") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8"
        ) from error


def _check_header(path: Path, header: list[str]) -> None:
    if not {"path", "label"} <= set(header):
        raise DataError(f"{path}:1: the header is {','.join(header)!r}; it must name path,label")
    if len(set(header)) < len(header):
        raise DataError(f"{path}:1: the header {','.join(header)!r} names a column twice; rename")


def _class_id(row: Row, ids: Mapping[str, int]) -> int:
    label = row.fields["label"]
    if label in ids:
        return ids[label]
    if label.isascii() and label.isdigit() and len(label) < 10 and int(label) < len(ids):
        return int(label)
    raise DataError(
        f"{row.place}: label {label!r} is neither a name in classes.txt nor an id from 0 to "
        f"{len(ids) - 1}; correct one of the two files"
    )


def _relative_path(row: Row) -> str:
    """The row's path, refused if it is empty, an address, or leads out of the video root.

    Links that lead out are refused when the video is opened.
    """
    path = row.fields["path"]
    inside = posixpath.normpath(path.replace("\\", "/")).split("/")[0] not in ("", "..")
    drive = PureWindowsPath(path).drive
    if not path or "\0" in path or not inside or drive or has_scheme(path):
        raise DataError(
            f"{row.place}: path {path!r} does not lie under the video root; write it relative to "
            "the folder in source.txt"
        )
    return path


def _refuse_two_labels(rows: Sequence[Row], labels: Sequence[int]) -> None:
    """One video with two labels is a mistake; the same row twice is a way to weight it."""
    first: dict[str, int] = {}
    for number, row in enumerate(rows):
        earlier = first.setdefault(row.fields["path"], number)
        if labels[earlier] != labels[number]:
            raise DataError(
                f"{row.place}: {row.fields['path']!r} has label {row.fields['label']!r} here and "
                f"{rows[earlier].fields['label']!r} at {rows[earlier].place}; keep one"
            )


def _video_root(root: Path, videos: Path | None) -> Path:
    """The absolute folder that paths are relative to: `videos`, else source.txt, else `root`."""
    source, key = root / "source.txt", "data.videos"
    if videos is None and source.is_file():
        videos, key = root / _read_text(source).strip(), str(source)
    folder = Path(videos or root).resolve()
    if not folder.is_dir():
        raise DataError(f"{key}: no folder {folder}; set data.videos to where the videos are now")
    return folder
