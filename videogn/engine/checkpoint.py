"""Checkpoints that prove themselves: tensors and plain values, with a digest over all of them.

`torch.load` does not check a zip file's checksums: a flipped bit loads as a wrong weight. So each
file carries the SHA-256 of everything else in it, and loading compares.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from videogn.engine import durable
from videogn.engine.memory import is_exhaustion
from videogn.errors import CheckpointError

_ZIP = b"PK\x03\x04"  # how a file of torch.save begins

log = logging.getLogger(__name__)


def save(path: Path, contents: Mapping[str, Any]) -> None:
    """Writes `contents` and their digest under `path`, whole or not at all.

    Args:
        path: the file; its folder is made.
        contents: nested dicts and lists of tensors, str, int, float, bool and None.

    Raises:
        OSError: it cannot be written; what was there before is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = io.BytesIO()  # not into the file: torch hides a full disk behind an error of its own
    torch.save({**contents, "digest": digest(contents)}, data)
    with durable.replacing(path) as file:
        file.write(data.getbuffer())


def load(path: str | Path) -> dict[str, Any]:
    """Returns the verified contents of a checkpoint, on the CPU, without `digest`.

    Raises:
        CheckpointError: there is no such file, it is none of ours, or it is damaged.
        OSError: the disk or the network does not give it, which says nothing of the file.
    """
    path = Path(path)
    data = _read(path)
    try:
        contents = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        stated = contents.pop("digest", None) if isinstance(contents, dict) else None
        computed = digest(contents) if stated else None
    except Exception as error:  # a flipped bit makes torch raise nearly anything
        if is_exhaustion(error):
            raise
        # Not torch's own words, which advise to load it without checking what it may run.
        raise CheckpointError(
            f"checkpoint {path} cannot be read: it is damaged, cut short or holds more than "
            "tensors and plain values; use an older one of the same folder"
        ) from error
    if stated is None:
        raise CheckpointError(
            f"{path} is not a checkpoint of videogn; to start from its weights, train with "
            f"model.init={path}"
        )
    if computed != stated:
        raise CheckpointError(
            f"checkpoint {path} is damaged: its contents do not match the digest inside it; "
            "use an older one of the same folder"
        )
    return contents


def _read(path: Path) -> bytes:
    """Returns the bytes of a file that begins as one of torch.save."""
    if path.is_dir():
        raise CheckpointError(
            f"{path} is a folder; give a checkpoint in it, such as {path}/checkpoints/last.pt"
        )
    try:
        with path.open("rb") as file:
            start = file.read(len(_ZIP))
            if start == _ZIP:
                return start + file.read()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CheckpointError(
            f"there is no checkpoint {path}; those of a run are in its folder `checkpoints`"
        ) from error
    except OSError as error:  # one of reading names no file
        raise OSError(error.errno, error.strerror, str(path)) from error
    what = "is empty" if not start else "is no file of torch.save"
    raise CheckpointError(
        f"{path} {what}; give a checkpoint of a run, such as last.pt, or make one of other weights "
        "with run.py convert"
    )


def digest(contents: Any) -> str:
    """Returns the SHA-256 over all names, types, shapes, bytes and plain values, in hex."""
    sha = hashlib.sha256()
    _absorb(sha, contents)
    return sha.hexdigest()


def _absorb(sha: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        tensor = value.detach().cpu().contiguous()
        sha.update(f"tensor {tensor.dtype} {tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy())
    elif isinstance(value, Mapping):
        sha.update(f"dict {len(value)};".encode())
        for key, item in value.items():
            _absorb(sha, key)
            _absorb(sha, item)
    elif isinstance(value, list | tuple):
        sha.update(f"list {len(value)};".encode())
        for item in value:
            _absorb(sha, item)
    else:
        sha.update(f"{type(value).__name__} {value!r};".encode())


def publish(path: Path, name: str) -> None:
    """Makes `name`, beside `path`, the same file: a hard link, a copy where there are none."""
    target = path.with_name(name)
    temporary = path.with_name(f"{name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        with path.open("rb") as source, durable.replacing(target) as copy:
            shutil.copyfileobj(source, copy)
        return
    temporary.replace(target)
    temporary.unlink(missing_ok=True)  # renaming onto another link of the same file does nothing
    durable.sync_folder(path.parent)


def step_file(folder: Path, step: int) -> Path:
    """Returns where the checkpoint of a step lies."""
    return folder / f"step_{step:09d}.pt"


def prune(folder: Path, keep: int, newest: Path) -> None:
    """Deletes checkpoints of steps older than the last `keep` undamaged; `last.pt`, `best.pt` stay.

    Those kept are read back, so that damage since they were written does not count as one kept.
    Those of steps after `newest`, just saved, go too: the run went on from before them because
    they could not be used.
    """
    good = 0
    for path in sorted(folder.glob("step_*.pt"), reverse=True):
        if path > newest or good == keep:
            path.unlink()
        elif _is_undamaged(path):
            good += 1


def _is_undamaged(path: Path) -> bool:
    try:
        load(path)
    except (CheckpointError, OSError) as error:
        log.warning("%s; older ones are kept in its place", error)
        return False
    return True


def newest(
    folder: Path, require_usable: Callable[[Path, Mapping[str, Any]], None] | None = None
) -> tuple[Path, dict[str, Any]] | None:
    """Returns the newest checkpoint of a run that can be used, None when there are none at all.

    Args:
        folder: of the checkpoints.
        require_usable: raises CheckpointError for an undamaged one that cannot be used.

    Raises:
        CheckpointError: there are some and none can be used: never a silent start from scratch.
    """
    paths = sorted(folder.glob("step_*.pt"), reverse=True)
    for path in paths:
        try:
            contents = load(path)
            if require_usable:
                require_usable(path, contents)
        except CheckpointError as error:
            log.warning("%s; trying the one before", error)
        else:
            return path, contents
    if paths:
        raise CheckpointError(
            f"all {len(paths)} checkpoints in {folder} are damaged or of no use; restore one, or "
            "start anew with resume=never"
        )
    return None
