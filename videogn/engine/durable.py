"""Files that a kill, a full disk or a power cut leaves as they were or as they should be."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger(__name__)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yields a file that becomes `path` when the context ends without an error, else vanishes.

    Written beside, flushed to the disk, then renamed: a kill at any moment leaves the old file or
    the new one.

    Raises:
        OSError: with `path` as its file, which is then as it was.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:  # one of writing names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def append_line(path: Path, line: str) -> None:
    """Appends a line to a file, which is made, or leaves it as it was.

    Raises:
        OSError: with `path` as its file; no part of the line is in it.
    """
    data = line.encode() + b"\n"
    with path.open("ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        try:
            if file.write(data) < len(data):  # what was left of the disk
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            with suppress(OSError):  # no file, but a pipe or a device
                file.truncate(size)
            raise OSError(error.errno, error.strerror, str(path)) from error


def sync_file(path: Path) -> None:
    """Makes what any process has written to a file survive a power cut, where there is one."""
    if path.is_file():
        with path.open("rb") as file:
            os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Makes a rename in `folder` survive a power cut, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        log.debug("%s cannot be flushed", folder)
    finally:
        os.close(descriptor)


def require_writable(folder: Path) -> None:
    """Makes `folder` and writes a file there for a moment.

    Raises:
        OSError: with the file that cannot be made or written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / "probe"
    with replacing(probe) as file:
        file.write(b"written")
    probe.unlink()


def remove_leftovers(folder: Path) -> None:
    """Removes what killed writes have left in `folder`; nobody else may be writing there."""
    for path in folder.glob("*.tmp"):
        path.unlink(missing_ok=True)
