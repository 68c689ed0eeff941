"""What a layout is recognized by, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_prep.classes import Entry
from data_prep.lists import LIST_SUFFIXES, Listed
from data_prep.resolve import Resolver
from data_prep.scan import Scan


@dataclass(frozen=True)
class Found:
    """What a layout is recognized by.

    Attributes:
        scan: the videos and the other files.
        lists: given with --list.
        annotations: given with --annotations.
        split_number: of the splits of UCF-101 and HMDB-51, from 1.
    """

    scan: Scan
    lists: Sequence[Path] = ()
    annotations: Sequence[Path] = ()
    split_number: int = 1

    def texts(self) -> list[Path]:
        """The files under the source that may be lists, by their suffix."""
        names = [path for path in self.scan.ignored if path.lower().endswith(LIST_SUFFIXES)]
        return [self.scan.source / path for path in names if "::" not in path]


@dataclass
class Listing:
    """What a layout says.

    Attributes:
        entries: the videos.
        missing: rows of lists without a file.
        ignored: videos left out, with the reason.
        classes: the class names by id, where the layout has a file of them.
        used: lists that were read.
    """

    entries: list[Entry]
    missing: list[Listed] = field(default_factory=list)
    ignored: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    used: list[Path] = field(default_factory=list)


def resolved(found: Found, rows: Iterable[Listed]) -> Listing:
    """The files of `rows`, the rows that have none, and the videos that no row means."""
    resolver = Resolver(found.scan.source, found.scan.videos)
    listing = Listing([])
    for row in rows:
        path = resolver.find(row)
        if path is None:
            listing.missing.append(row)
        else:
            listing.entries.append(Entry(path, row.label, row.split, row.place))
    used = {entry.path for entry in listing.entries}
    listing.ignored = {path: "in no list" for path in found.scan.videos if path not in used}
    return listing
