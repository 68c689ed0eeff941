"""The list files that other projects write: which video has which label, one to a row.

Read are csv tables with named columns, json and jsonl, and lines of `path label` with any separator
(PySlowFast, MMAction2, VideoMAE, Non-local). Nothing is looked up in the file system here.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.scan import VIDEO_SUFFIXES
from videogn.data.tables import read_classes, read_table, read_text
from videogn.errors import DataError

LIST_SUFFIXES = (".csv", ".tsv", ".txt", ".list", ".json", ".jsonl")
# Columns by meaning, the clearest name first.
PATH_COLUMNS = (
    *("path", "video_path", "filepath", "file_path", "file", "filename", "file_name"),
    *("video", "video_name", "name", "clip", "id", "video_id", "youtube_id"),
)
LABEL_COLUMNS = (
    *("label", "label_name", "class", "class_name", "action", "action_name", "category"),
    *("label_id", "class_id", "target"),
)
SPLIT_COLUMNS = ("split", "subset", "set", "partition")
_SPLITS = {"train": "train", "val": "val", "dev": "val", "test": "test"}
_SEPARATORS = ("\t", ";", "|", ",", " ")
# A path that ends with the suffix of a video, what separates it, and all the rest.
_SUFFIXED = re.compile(
    rf"(.+(?:{'|'.join(map(re.escape, VIDEO_SUFFIXES))}))(?:[ \t]*[,;|\t][ \t]*|[ \t]+)(.+)",
    re.IGNORECASE,
)
_SHOWN = 100  # characters of a line in a message


@dataclass(frozen=True)
class Listed:
    """A row of a list.

    Attributes:
        place: its file:line, for messages.
        path: as written.
        label: a name or a number, as written; empty where the list has none.
        split: "train", "val", "test", or empty where neither the row nor the file's name tells.
    """

    place: str
    path: str
    label: str
    split: str


def read_list(file: Path) -> list[Listed]:
    """The rows of a list file, whatever its form. DataError, with the line, for what is no row."""
    text = read_text(file)
    suffix = file.suffix.lower()
    split = split_named(file.stem) or ""
    if suffix in (".json", ".jsonl"):
        rows = _read_json(file, text, split, by_line=suffix == ".jsonl")
    else:
        rows = _read_lines(file, text, split)
    if not rows:
        raise DataError(f"{file}: lists no video; give a list with a row for each")
    for row in rows:
        if not row.path:
            raise DataError(f"{row.place}: names no video; write its path or remove the row")
    return rows


def split_named(name: str) -> str | None:
    """The split that a file name, folder or field means, such as "val" for "validation_256".

    Of several the last counts: "ucf101_train_val" is for validation. None if there is no such word.
    """
    words = re.findall(r"(?<![a-z])(train|val|dev|test)", name.lower())
    return _SPLITS[words[-1]] if words else None


def label_in_json(file: Path, text: str) -> str:
    """The label in a json object of one video, empty for none. DataError if it is no object."""
    content = _parsed(file, text)
    if not isinstance(content, dict):
        raise DataError(f"{file}: is no object with a label; write one for a video")
    fields = _flat(content)
    return next((fields[name].strip() for name in LABEL_COLUMNS if name in fields), "")


def read_class_names(file: Path) -> tuple[str, ...]:
    """The class names by id: one a line, lines of `number name` from 0 or 1, or json {name: id}."""
    if file.suffix.lower() == ".json":
        return _class_names_in_json(file)
    lines = [line.split(None, 1) for line in read_text(file).splitlines() if line.strip()]
    numbers = [int(line[0]) for line in lines if len(line) == 2 and line[0].isdecimal()]
    if lines and numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        return tuple(line[1].strip() for line in lines)
    return read_classes(file)


def _class_names_in_json(file: Path) -> tuple[str, ...]:
    content = _parsed(file, read_text(file))
    if isinstance(content, list) and all(isinstance(name, str) for name in content):
        return tuple(content)
    if isinstance(content, dict) and sorted(map(str, content.values())) == sorted(
        map(str, range(len(content)))
    ):
        return tuple(
            str(name).strip('"') for name in sorted(content, key=lambda n: int(content[n]))
        )
    raise DataError(f"{file}: is no {{name: id}} with ids from 0; give a list of class names")


def _read_lines(file: Path, text: str, split: str) -> list[Listed]:
    lines = text.splitlines()
    first = next((line for line in lines if line.strip()), "")
    for separator in _SEPARATORS:
        names = [name.strip().strip('"').lower() for name in first.split(separator)]
        if set(names) & set(PATH_COLUMNS) and set(names) & set(LABEL_COLUMNS):
            return _read_named(file, separator, split)
    if first.lstrip().startswith('"'):
        return list(_read_quoted(file, text, split))
    return list(_read_plain(file, lines, split))


def _read_named(file: Path, separator: str, split: str) -> list[Listed]:
    rows = read_table(file, (), separator=separator)
    return [
        _from_fields(row.place, {name.lower(): text for name, text in row.fields.items()}, split)
        for row in rows
    ]


def _read_quoted(file: Path, text: str, split: str) -> Iterator[Listed]:
    """Rows like `"a b.mp4",3`; what follows the first closing quote is the separator."""
    found = re.match(r'\s*"(?:[^"]|"")*"(.)', text)
    separator = found[1] if found else ","
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=separator, strict=True, skipinitialspace=True
    )
    line = 1
    try:
        for fields in reader:
            if len(fields) not in (0, 2):
                raise _no_row(f"{file}:{line}", separator.join(fields))
            if fields:
                yield Listed(f"{file}:{line}", fields[0].strip(), fields[1].strip(), split)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{file}:{line}: is no valid csv ({error}); fix it") from error


def _read_plain(file: Path, lines: Sequence[str], split: str) -> Iterator[Listed]:
    """Lines of `path label`, or of paths alone, separated as most of the first hundred are."""
    numbered = [(n, line.strip()) for n, line in enumerate(lines, start=1) if line.strip()]
    sample = [line for _, line in numbered[:100]]
    suffixed = 2 * sum(_SUFFIXED.fullmatch(line) is not None for line in sample) > len(sample)
    separator = "" if suffixed else _separator(sample)
    for number, line in numbered:
        place = f"{file}:{number}"
        match = _SUFFIXED.fullmatch(line) if suffixed else None
        if match:
            path, label = match[1], match[2]
        elif separator and separator in line:
            path, _, label = (part.strip() for part in line.rpartition(separator))
        elif not suffixed and not separator:
            path, label = line, ""
        else:
            raise _no_row(place, line)
        if suffixed and re.fullmatch(r"\d+([ ,]+\d+)+", label):
            raise DataError(
                f"{place}: {label!r} are several numbers; a video has one label, write `path label`"
            )
        if separator == " " and re.search(r"\s\d+$", path) and label.isdecimal():
            raise DataError(
                f"{place}: {_cut(line)} names a folder of frames, their number and a label; frames "
                "are not read, give a list of the videos they were taken from"
            )
        yield Listed(place, path, label.strip('"'), split)


def _separator(lines: Sequence[str]) -> str:
    """The separator that stands in every line before something that can be a label, or empty."""
    for separator in _SEPARATORS:
        tails = [line.rpartition(separator) for line in lines]
        if all(path.strip() and _may_be_label(label) for path, _, label in tails):
            return separator
    return ""


def _may_be_label(text: str) -> bool:
    return bool(text.strip()) and "/" not in text and not text.lower().endswith(VIDEO_SUFFIXES)


def _read_json(file: Path, text: str, split: str, *, by_line: bool) -> list[Listed]:
    if by_line:
        lines = [(n, line) for n, line in enumerate(text.splitlines(), start=1) if line.strip()]
        items = [(f"{file}:{n}", _parsed(file, line, n)) for n, line in lines]
    else:
        items = _items_of(file, _parsed(file, text))
    rows: list[Listed] = []
    for place, item in items:
        if not isinstance(item, dict):
            raise DataError(f"{place}: is no object with a path and a label; write one for a video")
        rows.append(_from_fields(place, _flat(item), split))
    return rows


def _items_of(file: Path, content: Any) -> list[tuple[str, Any]]:
    """The objects of one video each, with a place: of a list, or of {name: object or label}."""
    if isinstance(content, dict) and isinstance(content.get("database"), dict):
        content = content["database"]  # as ActivityNet writes it
    if isinstance(content, dict):
        return [
            (
                f"{file}: {name!r}",
                {"path": name, **(value if isinstance(value, dict) else {"label": value})},
            )
            for name, value in content.items()
        ]
    if isinstance(content, list):
        return [(f"{file}: item {number}", item) for number, item in enumerate(content, start=1)]
    raise DataError(f"{file}: is neither a list nor an object; write a list of objects")


def _flat(item: Mapping[str, Any]) -> dict[str, str]:
    """The fields of a json object in lower case, those of `annotations` among them."""
    nested = item.get("annotations")
    if isinstance(nested, list) and len(nested) == 1:
        nested = nested[0]
    fields = {**item, **(nested if isinstance(nested, dict) else {})}
    return {
        str(name).lower(): str(value)
        for name, value in fields.items()
        if isinstance(value, (str, int, float)) and not isinstance(value, bool)
    }


def _from_fields(place: str, fields: Mapping[str, str], split: str) -> Listed:
    """The row that named fields make."""

    def first(names: Sequence[str]) -> str | None:
        return next((fields[name].strip() for name in names if name in fields), None)

    path = next((fields[name] for name in PATH_COLUMNS if name in fields), None)
    if path is None:
        raise DataError(f"{place}: has no field {', '.join(PATH_COLUMNS[:6])} or the like; add one")
    said = first(SPLIT_COLUMNS)
    if said:
        known = split_named(said)
        if known is None:
            raise DataError(f"{place}: split {said!r} is none of train, val, test; correct it")
        split = known
    return Listed(place, path, first(LABEL_COLUMNS) or "", split)


def _parsed(file: Path, text: str, line: int = 1) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        at = line + (error.lineno - 1 if isinstance(error, json.JSONDecodeError) else 0)
        raise DataError(f"{file}:{at}: is no valid json ({error}); fix it") from error


def _no_row(place: str, line: str) -> DataError:
    return DataError(f"{place}: {_cut(line)} is no `path label` like the lines before; correct it")


def _cut(line: str) -> str:
    return repr(line) if len(line) <= _SHOWN else f"{line[:_SHOWN]!r}..."
