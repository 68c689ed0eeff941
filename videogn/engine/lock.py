"""One process for a folder: a lock that ends with its owner, however it ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from videogn.errors import FolderInUseError

NAME = ".lock"
# Seconds within which a process that was told to end has ended, or its killed one is cleared away.
PATIENCE = 10.0
_POLL = 0.1

log = logging.getLogger(__name__)


@contextmanager
def locked(folder: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keeps other processes out of `folder`, which is made, within the context.

    A record lock (fcntl), not flock: it is this process's alone. A loader worker is a fork of it,
    may live a little longer, and would hold on to an flock.

    Args:
        folder: to write to; that it can be written to is found out here.
        patience: seconds to wait for another process to end.

    Raises:
        FolderInUseError: another process has it, and keeps it.
        OSError: the folder cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / NAME
    descriptor = _acquire(path, patience)
    try:
        _sign(descriptor, path)
        yield
    finally:
        with suppress(OSError):  # a folder gone or read-only by now does not matter any more
            path.unlink()  # before letting go: whoever opens it from now on makes a new one
        os.close(descriptor)


def _sign(descriptor: int, path: Path) -> None:
    """Writes who has the lock, which also tells a full disk before anything is begun."""
    try:
        os.truncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except OSError as error:  # names no file
        raise OSError(error.errno, error.strerror, str(path)) from error


def _acquire(path: Path, patience: float) -> int:
    """Returns the descriptor of the file at `path`, locked."""
    deadline = time.monotonic() + patience
    waiting = False
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        if _try(descriptor, path):
            if _is_at(descriptor, path):
                return descriptor
            os.close(descriptor)  # its owner removed the file on leaving, after it was opened here
            continue
        owner = os.read(descriptor, 20).decode(errors="replace") or "unknown"
        os.close(descriptor)
        if time.monotonic() > deadline:
            raise FolderInUseError(
                f"{path.parent} is in use by another process (pid {owner}); wait for it to end, or "
                "choose another folder"
            )
        if not waiting:
            log.info("%s is in use; waiting %g s for it (pid %s)", path.parent, patience, owner)
            waiting = True
        time.sleep(_POLL)


def _try(descriptor: int, path: Path) -> bool:
    """Returns whether the lock could be taken."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        log.warning("%s: its file system has no locks; start only one process there", path.parent)
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Returns whether `path` still names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
