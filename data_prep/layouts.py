"""The layouts that data sets come in: how each is recognized, and who is what in it.

A layout is a row of `LAYOUTS`: `recognize` says why a folder has it, or nothing; `read` lists its
videos. The first that is recognized is taken, so that lists count for more than folders.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from data_prep.classes import Entry
from data_prep.known_sets import (
    hmdb_reason,
    kinetics_reason,
    read_hmdb51,
    read_kinetics,
    read_ucf101,
    ucf_reason,
)
from data_prep.listing import Found, Listing, resolved
from data_prep.lists import (
    label_in_json,
    read_class_names,
    read_list,
    split_named,
)
from data_prep.scan import bare_name, class_folder, folders_of
from videogn.data.kinetics import has_video_id, video_id
from videogn.errors import DataError

# Files of class names that projects keep beside their lists.
_CLASS_FILES = (
    *("classes.txt", "label_map.txt", "label_map_k400.txt", "labels.txt"),
    *("class_names.json", "classes.json"),
)
_LIST_NAMES = ("labels", "annotations", "annotation", "metadata", "videos", "list")


@dataclass(frozen=True)
class Layout:
    """A way to keep a data set; see the module."""

    name: str
    summary: str
    recognize: Callable[[Found], str]
    read: Callable[[Found], Listing]


def recognize(found: Found) -> tuple[Layout, str]:
    """The first layout that fits, and why it does. DataError if none does."""
    for layout in LAYOUTS:
        reason = layout.recognize(found)
        if reason:
            return layout, reason
    path = next(path for path in found.scan.videos if not _is_in_class_folder(path))
    raise DataError(
        f"{found.scan.source / path}: lies in no class folder, and no list says its class; move it "
        "into one, or give a list with --list or --annotations, or choose --label-from filename"
    )


def read_tree(found: Found) -> Listing:
    """The folder a video lies in names its class; folders like train_256 name the split."""
    paths = found.scan.videos
    depth = split_depth(paths)
    entries: list[Entry] = []
    for path in paths:
        folders = folders_of(path)
        split = "" if depth is None else split_named(folders[depth]) or ""
        label = class_folder(path) if depth is None or len(folders) > depth + 1 else ""
        if not label and split != "test":
            raise DataError(
                f"{found.scan.source / path}: lies in no class folder; move it into one, or use "
                "--label-from filename or csv"
            )
        entries.append(Entry(path, label, split, path))
    return Listing(entries)


def read_names(found: Found) -> Listing:
    """The file name without suffix is the label, as in a set of one video a class."""
    return Listing([Entry(path, bare_name(path), "", path) for path in found.scan.videos])


def split_depth(paths: Sequence[str]) -> int | None:
    """At which depth all videos lie in folders train, val or test (of any ending); None if nowhere.

    A class folder is no such folder: "training dog" is one, as there is no folder of a class in it.
    """
    folders = [folders_of(path) for path in paths]
    for depth in range(min(len(parts) for parts in folders)):
        names = {parts[depth] for parts in folders}
        if not all(re.match("train|val|test", name.lower()) for name in names):
            continue
        inner = {parts[depth] for parts in folders if len(parts) > depth + 1}
        if {name for name in names if split_named(name) != "test"} <= inner:
            return depth
    return None


def _read_webdataset(found: Found) -> Listing:
    """A small file of the same name beside the video holds the label: .cls or .json."""
    notes = found.scan.notes
    entries: list[Entry] = []
    ignored: dict[str, str] = {}
    for path in found.scan.videos:
        stem = path[: len(path) - len(PurePosixPath(path).suffix)]
        label = _label_in(notes, stem)
        if label:
            split = split_named(path.partition("::")[0]) or ""
            entries.append(Entry(path, label, split, path))
        else:
            ignored[path] = "no .cls or .json beside it says its class"
    return Listing(entries, [], ignored)


def _read_lists(found: Found) -> Listing:
    files = list(found.lists) or _list_files(found)
    listing = resolved(found, [row for file in files for row in read_list(file)])
    listing.used = files
    listing.classes = _class_names_beside([*files, found.scan.source / "x"])
    return listing


def _tree_reason(found: Found) -> str:
    paths = found.scan.videos
    depth = split_depth(paths)
    if depth is not None:
        names = sorted({folders_of(path)[depth] for path in paths})
        return f"videos in class folders in {', '.join(names[:4])}"
    return "videos in class folders" if all(map(_is_in_class_folder, paths)) else ""


def _webdataset_reason(found: Found) -> str:
    labelled = [path for path in found.scan.notes if path.lower().endswith((".cls", ".json"))]
    return f"labels beside the videos in archives, such as {labelled[0]}" if labelled else ""


def _lists_reason(found: Found) -> str:
    if found.lists:
        return "--list"
    files = _list_files(found)
    return f"{', '.join(str(file) for file in files[:3])} list videos and labels" if files else ""


def _list_files(found: Found) -> list[Path]:
    """The files named like lists that name at least one of the videos, none of a data root."""
    named = [
        file
        for file in found.texts()
        if (file.stem.lower() in _LIST_NAMES or split_named(file.stem))
        and not (file.parent / "source.txt").exists()
    ]
    videos = {bare_name(path) for path in found.scan.videos} if named else set()
    ids = {video_id(path) for path in found.scan.videos if has_video_id(path)} if named else set()
    return [file for file in named if _lists_some(file, videos, ids)]


def _lists_some(file: Path, videos: Set[str], ids: Set[str]) -> bool:
    try:
        rows = read_list(file)
    except DataError:
        return False
    paths = [row.path.replace("\\", "/") for row in rows]
    return any(bare_name(path) in videos or video_id(path) in ids for path in paths)


def _class_names_beside(files: Sequence[Path]) -> tuple[str, ...] | None:
    """The class names in a file beside one of `files`, which is none of them."""
    for folder in dict.fromkeys(file.parent for file in files):
        for name in _CLASS_FILES:
            if (folder / name).is_file() and folder / name not in files:
                return read_class_names(folder / name)
    return None


def _label_in(notes: Mapping[str, str], stem: str) -> str:
    """The label that the notes beside a video give, empty for none."""
    text = notes.get(f"{stem}.cls", "").strip()
    if text:
        return text
    text = notes.get(f"{stem}.json", "")
    return label_in_json(Path(f"{stem}.json"), text) if text else ""


def _is_in_class_folder(path: str) -> bool:
    return class_folder(path) != ""


# In the order of recognition: what lists say counts for more than the folders that videos lie in.
LAYOUTS = (
    Layout(
        "kinetics", "Kinetics' annotations (csv) and videos by id", kinetics_reason, read_kinetics
    ),
    Layout("ucf101", "classInd.txt, trainlist01.txt, testlist01.txt", ucf_reason, read_ucf101),
    Layout("hmdb51", "<class>_test_split1.txt", hmdb_reason, read_hmdb51),
    Layout(
        "lists",
        "lists of paths and labels, or tables with named columns",
        _lists_reason,
        _read_lists,
    ),
    Layout(
        "webdataset",
        "archives with .cls or .json beside the videos",
        _webdataset_reason,
        _read_webdataset,
    ),
    Layout("tree", "class folders, in folders train and val or not", _tree_reason, read_tree),
)
