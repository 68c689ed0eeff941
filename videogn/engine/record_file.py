"""`metrics.jsonl`, the record of truth of a run: one object a line, whole lines only."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

_CHUNK = 1 << 16  # bytes read at a time when looking for the last end of a line


class RecordFile:
    """Appends records to a file of json lines, each in the file before the call returns.

    A full disk costs no record and no training: what could not be written is taken back to the
    last whole line, kept in memory and written with the next record that fits. Half a line that a
    kill has left at the end is dropped, so that the next one does not run into it.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._size = _whole_lines(self._file)
        os.ftruncate(self._file, self._size)
        self._waiting: list[bytes] = []

    def append(self, record: Mapping[str, Any]) -> None:
        """Adds one record of plain values; what is not finite becomes null, which json has."""
        finite = {key: _finite(value) for key, value in record.items()}
        self._waiting.append(json.dumps(finite, allow_nan=False).encode() + b"\n")
        failed_before = len(self._waiting) > 1
        error = self._write()
        if error and not failed_before:
            log.warning(
                "%s cannot be written (%s); its records wait in memory: make room",
                self.path,
                error.strerror,
            )
        elif failed_before and not error:
            log.info("%s is complete again", self.path)

    def close(self) -> None:
        """Closes the file, after a last attempt to write what waits."""
        if self._waiting and self._write():
            log.warning("%s lacks its last %d records", self.path, len(self._waiting))
        os.close(self._file)

    def _write(self) -> OSError | None:
        """Writes all that waits or nothing of it; returns what was in the way."""
        data = memoryview(b"".join(self._waiting))
        try:
            rest = data
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError as error:
            os.ftruncate(self._file, self._size)  # needs no room
            return error
        self._size += len(data)
        self._waiting.clear()
        return None


def _whole_lines(file: int) -> int:
    """Returns how many bytes of a file end in a whole line."""
    end = os.fstat(file).st_size
    while end:
        start = max(end - _CHUNK, 0)
        newline = os.pread(file, end - start, start).rfind(b"\n")
        if newline >= 0:
            return start + newline + 1
        end = start
    return 0


def _finite(value: Any) -> Any:
    """Returns `value`, None in the place of NaN and infinity."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
