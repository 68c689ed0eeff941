"""Data sets with files of their own that say who is what: Kinetics, UCF-101, HMDB-51."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from data_prep.classes import Entry
from data_prep.k400_source import match, read_annotations
from data_prep.listing import Found, Listing, resolved
from data_prep.lists import Listed, read_class_names, read_list
from videogn.data.tables import read_text
from videogn.errors import DataError

_ANNOTATION_COLUMNS = {"youtube_id", "time_start", "time_end"}
_HMDB_SPLITS = {"0": "", "1": "train", "2": "val"}


def read_kinetics(found: Found) -> Listing:
    """The annotations tell class and split; a video is known by its YouTube id."""
    files = list(found.annotations) or _annotation_files(found)
    clips = read_annotations(files, any_class=True)
    result = match(found.scan.videos, clips, ())
    entries = [
        Entry(row["path"], row["label"], split, clips[row["youtube_id"]].place, _times(row))
        for split, rows in result.rows.items()
        for row in rows
    ]
    missing = [Listed(clip.place, clip.video, clip.label, clip.split) for clip in result.missing]
    return Listing(entries, missing, result.ignored, used=files)


def read_ucf101(found: Found) -> Listing:
    """The split lists of UCF-101; the test half is for validation. Numbers must fit classInd."""
    folder = _ucf_folder(found)
    classes = read_class_names(folder / "classInd.txt")
    number = f"{found.split_number:02}"
    rows: list[Listed] = []
    files = [folder / f"{half}list{number}.txt" for half in ("train", "test")]
    for file, split in zip(files, ("train", "val"), strict=True):
        for row in read_list(file):
            label = row.path.rpartition("/")[0].rpartition("/")[2]
            if row.label and (
                not row.label.isdecimal()
                or classes[int(row.label) - 1 : int(row.label)] != (label,)
            ):
                raise DataError(
                    f"{row.place}: {row.path!r} has the number {row.label}, which is not that of "
                    f"{label!r} in classInd.txt; correct one of the two"
                )
            rows.append(Listed(row.place, row.path, label, split))
    listing = resolved(found, rows)
    listing.classes, listing.used = classes, [*files, folder / "classInd.txt"]
    return listing


def read_hmdb51(found: Found) -> Listing:
    """The split files of HMDB-51, one a class: 1 is for training, 2 for validation, 0 unused."""
    files = _hmdb_files(found)
    rows: list[Listed] = []
    for file in files:
        label = file.name.rpartition("_test_split")[0]
        for number, line in enumerate(read_text(file).splitlines(), start=1):
            name, _, half = line.strip().rpartition(" ")
            if not line.strip():
                continue
            if not name or half not in _HMDB_SPLITS:
                raise DataError(f"{file}:{number}: {line!r} is no name and 0, 1 or 2; correct it")
            rows.append(Listed(f"{file}:{number}", f"{label}/{name}", label, _HMDB_SPLITS[half]))
    listing = resolved(found, rows)
    listing.used = files
    unused = [entry.path for entry in listing.entries if not entry.split]
    listing.entries = [entry for entry in listing.entries if entry.split]
    listing.ignored |= dict.fromkeys(unused, f"in neither half of split {found.split_number}")
    return listing


def kinetics_reason(found: Found) -> str:
    """Why this is Kinetics with its annotations, or empty."""
    if found.annotations:
        return "--annotations"
    files = _annotation_files(found)
    return f"{files[0]} has the columns of Kinetics' annotations" if files else ""


def ucf_reason(found: Found) -> str:
    """Why this is UCF-101, or empty."""
    if found.lists:
        return ""
    folders = [path.parent for path in found.texts() if path.name == "classInd.txt"]
    return f"{folders[0]} holds classInd.txt" if folders else ""


def hmdb_reason(found: Found) -> str:
    """Why this is HMDB-51, or empty."""
    files = [] if found.lists else _hmdb_files(found)
    return f"{len(files)} files such as {files[0].name}" if files else ""


def _ucf_folder(found: Found) -> Path:
    folders = [path.parent for path in found.texts() if path.name == "classInd.txt"]
    number = f"{found.split_number:02}"
    for folder in folders:
        if all((folder / f"{half}list{number}.txt").is_file() for half in ("train", "test")):
            return folder
    raise DataError(
        f"{found.scan.source}: holds no trainlist{number}.txt and testlist{number}.txt beside "
        "classInd.txt; give another --split-number or the folder that holds them"
    )


def _hmdb_files(found: Found) -> list[Path]:
    end = f"_test_split{found.split_number}.txt"
    return [path for path in found.texts() if path.name.endswith(end)]


def _annotation_files(found: Found) -> list[Path]:
    if found.lists:
        return []
    return [
        path
        for path in found.texts()
        if path.suffix.lower() == ".csv" and _header(path) >= _ANNOTATION_COLUMNS
    ]


def _header(file: Path) -> set[str]:
    with file.open("rb") as lines:
        first = lines.readline(4096).decode("utf-8", "replace")
    return {name.strip(' "\ufeff\r\n') for name in first.split(",")}


def _times(row: Mapping[str, str]) -> dict[str, str]:
    return {name: row[name] for name in ("youtube_id", "start", "end")}
