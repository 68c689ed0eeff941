"""The text files of a data root: tables in csv and lists of names, each mistake with its line."""

from __future__ import annotations

import codecs
import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from videogn.data.strings import PackedStrings, StringsBuilder
from videogn.errors import DataError

_REQUIRED = ("path", "label")
_MAX_FIELD = 1 << 24  # characters; csv stops at 131,072, less than the frame index of a long video
_CHUNK = 256  # rows that are Python objects at one time; the collector walks through 4096: 1.5x


@dataclass(frozen=True)
class Row:
    """One row of a csv file: its fields by column, and `place`, its file:line, for messages."""

    place: str
    fields: dict[str, str]


@dataclass(frozen=True)
class Columns:
    """A csv file by columns.

    Attributes:
        lines: int64 (N,), the line that each row begins on, from 1.
        strings: the N fields of each column.
    """

    lines: np.ndarray
    strings: dict[str, PackedStrings]


def read_table(
    path: Path, required: Sequence[str] = _REQUIRED, *, separator: str = ","
) -> list[Row]:
    """The rows of a csv file with at least the columns `required`, each with its line.

    A byte order mark (UTF-8, UTF-16), CRLF, CR, quotes and empty lines are accepted. Raises
    DataError otherwise.
    """
    rows = _rows(path, required, separator)
    _, header = next(rows)
    return [Row(f"{path}:{line}", dict(zip(header, fields, strict=True))) for line, fields in rows]


def read_columns(path: Path, required: Sequence[str] = _REQUIRED) -> Columns:
    """The columns of a csv file; accepts and refuses what `read_table` does.

    260,000 rows of 12 columns take about 1 s of CPU time and hardly more memory than the result.
    """
    rows = _rows(path, required)
    _, header = next(rows)
    builders = [StringsBuilder() for _ in header]
    lines: list[int] = []
    chunk: list[list[str]] = []
    for line, fields in rows:
        lines.append(line)
        chunk.append(fields)
        if len(chunk) == _CHUNK:
            _append(builders, chunk)
            chunk = []
    _append(builders, chunk)
    strings = {name: builder.build() for name, builder in zip(header, builders, strict=True)}
    return Columns(np.array(lines, np.int64), strings)


def line_of(path: Path, row: int) -> int:
    """The line on which row `row`, counted from 0, of a csv file begins."""
    rows = _rows(path, ())
    next(rows)
    return next(line for number, (line, _) in enumerate(rows) if number == row)


def read_classes(path: Path) -> tuple[str, ...]:
    """The class names in a file of one name a line; DataError if empty, blank or repeated."""
    lines = read_text(path).splitlines()
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


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, or of a UTF-16 file with a byte order mark, without that mark.

    Line ends are kept as they are. DataError for a file that cannot be read or is no such text.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        what = "path" if isinstance(error, FileNotFoundError) else "path and its permissions"
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the {what}") from error
    wide = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if wide else "utf-8-sig")
    except UnicodeDecodeError as error:
        # What is before the bad byte is good, and splits into lines as the reader splits it.
        line = len(
            content[: error.start].replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
        )
        name = "UTF-16" if wide else "UTF-8"
        raise DataError(
            f"{path}:{line}: byte {error.start} of the file, {content[error.start]:#04x}, is not "
            f"{name}; save the file as UTF-8"
        ) from error


def write_text(path: Path, text: str) -> None:
    """Writes UTF-8 so that `path` holds the old text or the new one, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _rows(
    path: Path, required: Sequence[str], separator: str = ","
) -> Iterator[tuple[int, list[str]]]:
    """The header of a csv file, then its rows, each with the line it begins on."""
    text = io.StringIO(read_text(path), newline="")
    reader = csv.reader(text, strict=True, delimiter=separator)
    limit = csv.field_size_limit(_MAX_FIELD)
    line = 1
    try:
        header = [name.strip() for name in next(reader, [])]
        _check_header(path, header, required)
        yield line, header
        line = reader.line_num + 1
        for fields in reader:
            if fields and len(fields) != len(header):
                raise DataError(
                    f"{path}:{line}: {len(fields)} fields where the header has {len(header)}; "
                    f"quote a field that holds {separator!r}"
                )
            if fields:
                yield line, fields
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}:{line}: is no valid csv ({error}); fix it") from error
    finally:
        csv.field_size_limit(limit)


def _check_header(path: Path, header: list[str], required: Sequence[str]) -> None:
    if not set(required) <= set(header):
        shown = ",".join(header)
        shown = shown if len(shown) < 200 else f"{shown[:200]}..."
        raise DataError(f"{path}:1: the header is {shown!r}; it must name {','.join(required)}")
    if len(set(header)) < len(header):
        raise DataError(f"{path}:1: the header {','.join(header)!r} names a column twice; rename")


def _append(builders: Sequence[StringsBuilder], rows: Sequence[Sequence[str]]) -> None:
    for builder, fields in zip(builders, zip(*rows, strict=True), strict=False):
        builder.extend(fields)
