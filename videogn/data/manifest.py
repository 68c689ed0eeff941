"""The data root: which videos there are, their labels, and where they lie.

A data root is a folder with
    train.csv, val.csv   header `path,label`; further columns are kept
    classes.txt          one name a line; the number of the line, from 0, is the class id
    source.txt           optional: the folder that the paths are relative to (the video root)
A path may be `shard.tar::member`: a video inside an uncompressed archive.
"""

from __future__ import annotations

import csv
import hashlib
import io
import logging
import posixpath
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PureWindowsPath

import numpy as np

from videogn.data.containers import has_scheme
from videogn.data.frame_index import FrameIndex
from videogn.data.kinetics import kinetics400_classes
from videogn.data.tables import (
    Columns,
    Row,
    check_classes,
    read_classes,
    read_columns,
    read_table,
    read_text,
    write_text,
)
from videogn.data.tar import split_member
from videogn.errors import DataError, NoDataRootError

__all__ = [
    "Manifest",
    "Row",
    "check_classes",
    "kinetics400_classes",
    "read_classes",
    "read_manifest",
    "read_table",
    "shown",
    "why_unusable",
    "write_manifest",
    "write_text",
]

log = logging.getLogger(__name__)

_PREPARE = "python -m data_prep index SRC --out {root}"
_LONGEST_PATH = 4096  # bytes, PATH_MAX of Linux
_SHOWN = 120  # characters of a path in a message


@dataclass(frozen=True)
class Manifest:
    """The videos of one split.

    Its strings are packed (`videogn.data.strings`), so that loader workers share them.

    Attributes:
        name: the csv file it was read from, for messages.
        paths: as written, relative to `videos`.
        labels: int64 (N,), class ids.
        classes: the names, by class id.
        videos: the video root, absolute.
        columns: the further columns of the csv, each with N entries.
    """

    name: str
    paths: Sequence[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    videos: Path
    columns: Mapping[str, Sequence[str]]

    def __len__(self) -> int:
        return len(self.paths)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 in hex over the path and the class name of each video, in their order.

        Equal for the same videos and labels wherever they lie; 0.07 s for 240,000.
        """
        sha = hashlib.sha256()
        for path, label in zip(self.paths, self.labels.tolist(), strict=True):
            sha.update(f"{path}\0{self.classes[label]}\0".encode())
        return sha.hexdigest()

    def index(self, row: int) -> FrameIndex | None:
        """Where the frames of the video of `row` are, if the column `index` says so.

        Raises DataError for a text there that is no index.
        """
        text = self.columns["index"][row] if "index" in self.columns else ""
        try:
            return FrameIndex.from_text(text) if text else None
        except DataError as error:
            raise DataError(f"{self.name}: {self.paths[row]!r}: {error}") from error


def read_manifest(root: Path, split: str, *, videos: Path | None = None) -> Manifest:
    """The manifest of `split` ("train", "val") of the data root `root`.

    A label is a class name or else a class id. `videos` overrides `source.txt`. That the videos
    exist is not checked here: 260,000 look-ups would delay every start. A video listed twice with
    one label counts twice, with a warning.
    Raises NoDataRootError without the folder or its list, DataError, naming file and line, for
    anything else that is missing or malformed.
    """
    root, table = Path(root), Path(root) / f"{split}.csv"
    if not table.is_file():
        if split == "val" and (root / "train.csv").is_file():
            raise DataError(
                f"{table}: no such file: no video is held out for validation; index again with "
                "--val 0.1, or with --val-same to validate on the training videos"
            )
        raise _no_root(root, table)
    if not (root / "classes.txt").exists():
        command = _PREPARE.format(root=root)
        raise DataError(f"{root / 'classes.txt'}: no such file; index again with `{command}`")
    classes = read_classes(root / "classes.txt")
    columns = read_columns(table)
    paths, texts = columns.strings.pop("path"), columns.strings.pop("label")
    if not paths:
        raise DataError(f"{table}: lists no video; add rows or prepare it again")
    labels = _class_ids(table, columns, texts, classes)
    _check_paths(table, columns, paths)
    _refuse_two_labels(table, columns, paths, labels, classes)
    return Manifest(
        name=str(table),
        paths=paths,
        labels=labels,
        classes=classes,
        videos=_video_root(root, videos),
        columns=columns.strings,
    )


def _no_root(root: Path, table: Path) -> NoDataRootError:
    if root.is_file():
        return NoDataRootError(
            f"{root}: is a file; give the folder of a data root, as {root.parent}"
        )
    missing = f"{table}: no such file" if root.is_dir() else f"{root}: no such data root"
    command = _PREPARE.format(root=root)
    return NoDataRootError(f"{missing}; prepare one, of Kinetics-400 too, with `{command}`")


def why_unusable(path: str) -> str:
    """Why `path` cannot stand in a manifest, for after "path ...: "; empty if it can.

    It must lie under the video root whatever that is. Links that lead out are refused when the
    video is opened.
    """
    archive = split_member(path) if "::" in path else None
    file = archive[0] if archive else path
    if not path or "\0" in path:
        return "is empty" if not path else "holds a NUL"
    if len(path) > _LONGEST_PATH:
        return f"has {len(path)} characters, more than the {_LONGEST_PATH} of any file's path"
    if archive and not archive[1]:
        return "names no member of the archive, as shard.tar::member does"
    if file[0] not in "/\\" and ".." not in file and ":" not in file:
        return ""  # nearly all: the rest takes 10 times as long
    first = posixpath.normpath(file.replace("\\", "/")).split("/")[0]
    if first in ("", "..") or PureWindowsPath(file).drive or has_scheme(file):
        return "does not lie under the video root"
    return ""


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


def _class_ids(
    table: Path, columns: Columns, texts: Iterable[str], classes: Sequence[str]
) -> np.ndarray:
    """int64 (N,): the class ids of the labels `texts`, each a class name or else an id."""
    ids = {name: number for number, name in enumerate(classes)}
    numbers = {str(number): number for number in range(len(classes))}
    known = numbers | ids  # a name that looks like a number is a name
    labels = np.empty(len(columns.lines), np.int64)
    for row, text in enumerate(texts):
        label = known.get(text)
        if label is None:
            bare = text.strip()
            label = known.get(bare, numbers.get(bare.lstrip("0") or bare[:1]))
        if label is None:
            raise _label_error(f"{table}:{columns.lines[row]}", text, set(texts), len(classes))
        labels[row] = label
    return labels


def _label_error(place: str, text: str, texts: set[str], num_classes: int) -> DataError:
    numbers = {int(text) for text in texts if text.isascii() and text.isdigit() and len(text) < 10}
    if len(numbers) == len(texts) and min(numbers) == 1 and max(numbers) == num_classes:
        return DataError(
            f"{place}: label {text!r} is past the last id {num_classes - 1}: the labels run from 1 "
            f"to {num_classes}; subtract 1 from each, or list the videos anew with `python -m "
            "data_prep index SRC --list FILE --first-label 1`"
        )
    return DataError(
        f"{place}: label {shown(text)} is neither a name in classes.txt nor an id from 0 to "
        f"{num_classes - 1}; correct one of the two files"
    )


def _check_paths(table: Path, columns: Columns, paths: Iterable[str]) -> None:
    for row, path in enumerate(paths):
        reason = why_unusable(path)
        if reason:
            raise DataError(
                f"{table}:{columns.lines[row]}: path {shown(path)} {reason}; write it relative to "
                "the folder in source.txt"
            )


def _refuse_two_labels(
    table: Path,
    columns: Columns,
    paths: Sequence[str],
    labels: np.ndarray,
    classes: Sequence[str],
) -> None:
    """One video with two labels is a mistake; the same row twice is a way to weight it."""
    hashes = np.fromiter(map(hash, paths), np.int64, len(paths))
    _, group, sizes = np.unique(hashes, return_inverse=True, return_counts=True)
    first: dict[str, int] = {}
    repeated = 0
    for row in np.flatnonzero(sizes[group] > 1).tolist():
        path = paths[row]
        earlier = first.setdefault(path, row)
        if labels[earlier] != labels[row]:
            raise DataError(
                f"{table}:{columns.lines[row]}: {shown(path)} has label "
                f"{classes[labels[row]]!r} here and {classes[labels[earlier]]!r} at "
                f"{table}:{columns.lines[earlier]}; keep one"
            )
        repeated += earlier != row
    if repeated:
        rows = "1 row repeats" if repeated == 1 else f"{repeated} rows repeat"
        log.warning("%s: %s a video; it counts more than others", table, rows)


def shown(text: str) -> str:
    """`text` quoted, and cut if it is very long."""
    return repr(text) if len(text) <= _SHOWN else f"{text[:_SHOWN]!r}..."


def _video_root(root: Path, videos: Path | None) -> Path:
    """The absolute folder that paths are relative to: `videos`, else source.txt, else `root`."""
    source, key = root / "source.txt", "data.videos"
    if videos is None and source.is_file():
        videos, key = root / read_text(source).strip(), str(source)
    folder = Path(videos or root).resolve()
    if not folder.is_dir():
        raise DataError(
            f"{key}: no folder {folder}; say where the videos are: data.videos=/path/to/videos, or "
            "--videos of data_prep"
        )
    return folder
