"""Damaged lists of videos: what a spreadsheet, another encoding or a cut download makes of one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from videogn.data.manifest import read_manifest
from videogn.errors import DataError

PLAIN = "path,label\na.mp4,x\nb.mp4,y\nc.mp4,z\n"


@dataclass(frozen=True)
class ListFault:
    """A list, and what must come of it.

    Attributes:
        group: the row of the table that it belongs to.
        name: what is wrong.
        content: of train.csv; its classes are x, y and z.
        message: what the error must name; empty where the list must read as `PLAIN` does.
    """

    group: str
    name: str
    content: bytes
    message: str = ""


def list_faults() -> Iterator[ListFault]:
    """Every fault of the rows D18, D19 and D21 that lies in one list."""
    group = "D18 repeated videos"
    yield ListFault(group, "with another label", f"{PLAIN}a.mp4,y\n".encode(), "train.csv:5")
    group = "D19 labels"
    for label in ("-1", "3", "1.5", "w", "", "0x1", "1e0", "nan", "9" * 400):
        text = PLAIN.replace("b.mp4,y", f"b.mp4,{label}")
        yield ListFault(group, label[:9], text.encode(), "train.csv:3")
    ones = "path,label\na.mp4,1\nb.mp4,2\nc.mp4,3\n"
    yield ListFault(group, "from 1", ones.encode(), "--first-label 1")
    group = "D21 files"
    quoted = 'path,label\n"a.mp4","x"\n"b.mp4",y\nc.mp4,"z"\n'
    for name, data in {
        "plain": PLAIN.encode(),
        "byte order mark": PLAIN.encode("utf-8-sig"),
        "CRLF": PLAIN.replace("\n", "\r\n").encode(),
        "quotes": quoted.encode(),
        "UTF-16": PLAIN.encode("utf-16"),
        "no last newline": PLAIN.rstrip().encode(),
    }.items():
        yield ListFault(group, name, data)
    for name, data in {
        "latin-1": PLAIN.replace("a.mp4", "é.mp4").encode("latin-1"),
        "unclosed quote": PLAIN.replace("b.mp4", '"b.mp4').encode(),
        "a column too many": PLAIN.replace("b.mp4,y", "b.mp4,y,1").encode(),
        "a column too few": PLAIN.replace("b.mp4,y", "b.mp4").encode(),
        "no header": PLAIN.partition("\n")[2].encode(),
        "empty": b"",
        "header only": b"path,label\n",
        "a field of 200 kB": PLAIN.replace("b.mp4", "b" * 200_000).encode(),
        "NUL": PLAIN.replace("b.mp4", "b\0.mp4").encode(),
        "out of the root": PLAIN.replace("b.mp4", "../b.mp4").encode(),
        "an address": PLAIN.replace("b.mp4", "http://127.0.0.1/b.mp4").encode(),
    }.items():
        yield ListFault(group, name, data, "train.csv")


def problem_of(fault: ListFault, root: Path) -> str:
    """What went otherwise than it must when the list was read in the folder `root`."""
    root.mkdir(parents=True)
    (root / "classes.txt").write_text("x\ny\nz\n", encoding="utf-8")
    (root / "train.csv").write_bytes(fault.content)
    try:
        manifest = read_manifest(root, "train")
    except DataError as error:
        message = str(error)
        if not fault.message or fault.message not in message or "\n" in message:
            return f"refused with {message[:200]!r}"
        return ""
    found = (list(manifest.paths), manifest.labels.tolist())
    if fault.message or found != (["a.mp4", "b.mp4", "c.mp4"], [0, 1, 2]):
        return f"read as {str(found)[:200]}"
    return ""
