"""A data root as the commands see it that go through all of its videos."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep.progress import number_of
from videogn.data.manifest import read_manifest
from videogn.data.tables import Columns, read_columns, write_text
from videogn.errors import DataError
from videogn.report.text import printable

SPLITS = ("train", "val", "test")
_SHOWN_CLASSES = 5


@dataclass(frozen=True)
class Root:
    """A data root.

    Attributes:
        path: of the root.
        videos: the video root, absolute.
        classes: the names, by class id.
        splits: the csv files by split; that of `test` may lack labels.
    """

    path: Path
    videos: Path
    classes: tuple[str, ...]
    splits: dict[str, Columns]

    def distinct(self) -> list[str]:
        """The paths of all videos, each once, in the order of the splits."""
        return list(
            dict.fromkeys(p for table in self.splits.values() for p in table.strings["path"])
        )


def read_root(path: Path, videos: Path | None = None) -> Root:
    """The data root at `path`; `videos` overrides its source.txt. DataError if it is none."""
    labelled = [name for name in SPLITS[:2] if (path / f"{name}.csv").is_file()] or ["train"]
    manifest = read_manifest(path, labelled[0], videos=videos)
    splits = {
        name: read_columns(path / f"{name}.csv", required=("path",))
        for name in SPLITS
        if (path / f"{name}.csv").is_file()
    }
    return Root(path, manifest.videos, manifest.classes, splits)


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Writes a csv file, whole or not at all."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(header)
    writer.writerows(rows)
    write_text(path, text.getvalue())


def print_untrained(classes: Sequence[str], labels: Iterable[str]) -> None:
    """Prints a warning that names the classes that none of `labels`, those of train.csv, means.

    A label is a class name or else a class id, as in `videogn.data.manifest`.
    """
    ids = {str(number): number for number in range(len(classes))}
    ids |= {name: number for number, name in enumerate(classes)}
    bare = {label.strip() for label in labels}
    used = {ids.get(label, ids.get(label.lstrip("0") or label[:1])) for label in bare}
    lacking = [f"'{printable(name)}'" for number, name in enumerate(classes) if number not in used]
    if lacking:
        more = ", ..." if len(lacking) > _SHOWN_CLASSES else ""
        print(
            f"  warning: {len(lacking)} of {number_of(len(classes), 'class', 'classes')} without "
            f"a training video: {', '.join(lacking[:_SHOWN_CLASSES])}{more}"
        )


def add_to_summary(root: Path, key: str, value: Mapping[str, Any]) -> None:
    """Sets `key` of ROOT/summary.json, which holds what each command says of the root."""
    path = root / "summary.json"
    try:
        summary = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        summary[key] = dict(value)
    except (ValueError, TypeError) as error:
        raise DataError(f"{path}: is no json object; remove it, and repeat the command") from error
    write_text(path, json.dumps(summary, indent=2) + "\n")
