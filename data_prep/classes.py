"""Class names and ids: from the names, numbers and folders that copies of a data set use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_prep.scan import class_folder
from videogn.data.kinetics import has_video_id, kinetics400_classes, spelling
from videogn.data.tables import check_classes, read_classes
from videogn.errors import DataError

# A copy of Kinetics-400 may lack a few classes; a set of its own may share a few names with it.
_KINETICS_MIN_CLASSES = 300


@dataclass(frozen=True)
class Entry:
    """A video of the data root.

    Attributes:
        path: relative to the source folder.
        label: a class name, or a number as a list gives it; empty for an unlabelled test video.
        split: "train", "val", "test", or empty where the layout does not tell.
        place: file:line of its row, or its path, for messages.
        fields: further columns.
    """

    path: str
    label: str
    split: str = ""
    place: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)


def name_labels(
    source: Path,
    entries: Sequence[Entry],
    *,
    given: Sequence[str] | None = None,
    beside: Sequence[str] | None = None,
    first: int | None = None,
) -> tuple[list[Entry], tuple[str, ...]]:
    """The entries with class names as labels, and all class names by id.

    Args:
        source: the folder of the videos.
        entries: their labels are names, or numbers throughout, or empty where a list has none; the
            class folder counts then, but stays out of the test split if no other video is of it.
        given: the class names by id that the user gives.
        beside: those that the layout keeps beside its lists.
        first: the number of the first class, if the user says so.

    Raises DataError for a label that is missing or not among the classes.
    """
    if _are_numbers((entry.label for entry in entries), given or beside):
        names, order = name_numbers(entries, given or beside, first)
        entries = [replace(e, label=names[e.label]) if e.label else e for e in entries]
        beside = beside or order
    known = {entry.label for entry in entries} | set(given or beside or ())
    entries = [_with_folder_label(entry, known) for entry in entries]
    labels = [entry.label for entry in entries if entry.label]
    if not labels:
        raise DataError(f"{source}: no video has a label; give a list that has one for each")
    names, classes = name_classes(source, labels, given, beside)
    renamed = dict(zip(labels, names, strict=True)) | {"": ""}
    return [replace(entry, label=renamed[entry.label]) for entry in entries], classes


def renumbered(listed: Sequence[Entry], classes: Sequence[str], named: Sequence[Entry]) -> int:
    """How many classes of `named` have another id than the number that `listed` has for them.

    Numbers from 1 in all lists are no such change.
    """
    ids = {name: number for number, name in enumerate(classes)}
    names = {entry.path: entry.label for entry in named}
    pairs = {
        (int(entry.label), ids[names[entry.path]])
        for entry in listed
        if _is_number(entry.label) and names.get(entry.path)
    }
    shifts = {number - label for number, label in pairs}
    return 0 if shifts <= {0} or shifts == {1} else sum(a != b for a, b in pairs)


def name_classes(
    source: Path,
    labels: Sequence[str],
    given: Sequence[str] | None = None,
    beside: Sequence[str] | None = None,
) -> tuple[list[str], tuple[str, ...]]:
    """The label of each video as a class name, and all class names by id.

    The classes are `given`; else those of Kinetics-400, in its order, if the labels are (spelling
    aside); else those of `source`/classes.txt; else `beside`; else the sorted labels. Raises
    DataError for a label that is not among the classes.
    """
    found = sorted(set(labels))
    if given is not None:
        return _as_listed(labels, check_classes(given, "--classes"), "--classes")
    spellings = {spelling(label) for label in found}
    kinetics = {spelling(name): name for name in kinetics400_classes()}
    if spellings <= kinetics.keys() and len(spellings) >= _KINETICS_MIN_CLASSES:
        return [kinetics[spelling(label)] for label in labels], kinetics400_classes()
    file = source / "classes.txt"
    if file.is_file():
        return _as_listed(labels, read_classes(file), str(file))
    if beside is not None:
        place = f"{source}: the list of classes"
        return _as_listed(labels, check_classes(beside, place), place)
    if spellings <= kinetics.keys() and len(spellings) < len(found):
        # "riding a bike" in one folder and "riding_a_bike" in another are one class.
        names = [kinetics[spelling(label)] for label in labels]
        return names, tuple(sorted(set(names)))
    return list(labels), check_classes(found, str(source))


def _as_listed(
    labels: Sequence[str], classes: tuple[str, ...], place: str
) -> tuple[list[str], tuple[str, ...]]:
    known = {spelling(name): name for name in classes}
    if len(known) < len(classes):  # names that differ in punctuation only, such as C and C++
        known = {}
    names: dict[str, str] = {}
    for label in set(labels):
        name = label if label in classes else known.get(spelling(label))
        if name is None:
            raise DataError(f"{place}: lacks the class {label!r} of a video; add or remove it")
        names[label] = name
    return [names[label] for label in labels], classes


def name_numbers(
    entries: Sequence[Entry], listed: Sequence[str] | None, first: int | None
) -> tuple[dict[str, str], tuple[str, ...] | None]:
    """The class name of each number among the labels, and the names in the order of the numbers.

    `first` is the number of the first class, None if the user has not said. A number means the
    folder that all its videos lie in, if each number has its own; else a name of `listed`; else one
    of Kinetics-400 if the files are named so and there are 400; else the number is the name.
    The second value is None where the numbers say nothing of the order. Raises DataError for
    numbers that do not fit the names, and where they may count from 0 or from 1.
    """
    numbers = sorted({int(entry.label) for entry in entries if entry.label})
    folders = _folders_by_number(entries)
    known = None if listed is None else {spelling(name) for name in listed}
    if folders and (known is None or {spelling(name) for name in folders.values()} <= known):
        return {str(n): folders[n] for n in numbers}, tuple(folders[n] for n in numbers)
    if listed is None and _are_kinetics(entries, numbers):
        listed = kinetics400_classes()
    first = _first_number(entries, numbers, first, None if listed is None else len(listed))
    if listed is None:
        listed = [str(number) for number in range(first, numbers[-1] + 1)]
    if not first <= numbers[0] <= numbers[-1] < first + len(listed):
        worst = numbers[0] if numbers[0] < first else numbers[-1]
        raise DataError(
            f"{_place_of(entries, worst)}: label {worst} is no id from {first} to "
            f"{first + len(listed) - 1}; give the class names with --classes FILE"
        )
    return {str(n): listed[n - first] for n in numbers}, tuple(listed)


def _are_numbers(labels: Iterable[str], listed: Sequence[str] | None) -> bool:
    """Whether all labels there are, are numbers, and not names that look like numbers."""
    found = {label for label in labels if label}
    return bool(found) and all(map(_is_number, found)) and not found <= set(listed or ())


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdecimal() and len(label) < 10 and str(int(label)) == label


def _folders_by_number(entries: Sequence[Entry]) -> dict[int, str]:
    """The class folder of each number; empty unless each number has one and shares it with none."""
    folders: dict[int, str] = {}
    spellings: dict[str, int] = {}
    for entry in entries:
        if not entry.label:
            continue
        folder = class_folder(entry.path)
        number, name = int(entry.label), spelling(folder)
        if not folder or spelling(folders.setdefault(number, folder)) != name:
            return {}
        if spellings.setdefault(name, number) != number:
            return {}
    return folders if len(folders) > 1 else {}


def _are_kinetics(entries: Sequence[Entry], numbers: Sequence[int]) -> bool:
    named = sum(has_video_id(entry.path) for entry in entries)
    return numbers[-1] == len(kinetics400_classes()) - 1 and named > 0.9 * len(entries)


def _first_number(
    entries: Sequence[Entry], numbers: Sequence[int], first: int | None, count: int | None
) -> int:
    if first is not None or numbers[0] == 0:
        return first or 0
    if count is None or numbers[-1] == count:
        raise DataError(
            f"{_place_of(entries, numbers[-1])}: the labels run from {numbers[0]} to {numbers[-1]};"
            " say whether the first class is 1 or 0 with --first-label"
        )
    return 0


def _place_of(entries: Iterable[Entry], number: int) -> str:
    return next(entry.place for entry in entries if entry.label == str(number))


def _with_folder_label(entry: Entry, known: set[str]) -> Entry:
    """`entry`, with its class folder as label if it has none."""
    folder = class_folder(entry.path)
    if entry.label or (entry.split == "test" and folder not in known):
        return entry
    if not folder:
        raise DataError(f"{entry.place}: {entry.path!r} has no label; write one")
    return replace(entry, label=folder)
