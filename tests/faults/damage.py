"""Rows K1 and K4: checkpoints that are damaged, and files that would run something."""

from __future__ import annotations

import logging
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.faults.table import Finding
from tests.weights.test_pickles import calls, entry
from videogn.engine import checkpoint
from videogn.errors import CheckpointError, WeightsError
from videogn.weights.pickles import load_numeric_pickle

K1, K4 = "K1 checkpoint cut, flipped, zeroed", "K4 hostile file"
_PAGE = 4096
_DRAWS = 50  # of a damage that reaches what the file says, before giving up


@dataclass(frozen=True)
class Numbers:
    """How many checkpoints are damaged in which way."""

    cuts: int = 60
    flips: int = 200
    pages: int = 100


def damaged(good: Path, folder: Path, numbers: Numbers) -> Iterator[Finding]:
    """What came of damages to the checkpoint `good`, each beside an older one that is whole.

    A damage that does not reach what the file says, as in the padding of a zip, is drawn again.
    """
    folder.mkdir(parents=True)
    older = checkpoint.step_file(folder, 1)
    shutil.copyfile(good, older)
    wanted = checkpoint.digest(checkpoint.load(good))
    data, rng = good.read_bytes(), random.Random(0)
    judge = partial(_judge, checkpoint.step_file(folder, 2), older, wanted)
    for name, content in (("empty", b""), ("HTML", b"<html><body>404</body></html>")):
        yield Finding(K1, name, judge(content) or "")
    for number in range(numbers.cuts):
        size = len(data) * number // numbers.cuts + rng.randrange(100)
        yield Finding(K1, f"cut to {size} bytes", judge(data[:size]) or "")
    for count, ways in ((numbers.flips, _flip), (numbers.pages, _zero)):
        for _ in range(count):
            problem, name = None, ""
            for _ in range(_DRAWS):
                name, content = ways(data, rng)
                problem = judge(content)
                if problem is not None:
                    break
            yield Finding(K1, name, "changes nothing" if problem is None else problem)


def _flip(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    place, bit = rng.randrange(len(data)), rng.randrange(8)
    content = bytearray(data)
    content[place] ^= 1 << bit
    return f"bit {bit} of byte {place}", bytes(content)


def _zero(data: bytes, rng: random.Random) -> tuple[str, bytes]:
    first = _PAGE * rng.randrange(len(data) // _PAGE)
    content = data[:first] + bytes(_PAGE) + data[first + _PAGE :]
    return f"zeros from byte {first}", content


class _Messages(logging.Handler):
    """Collects what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Takes one."""
        self.texts.append(record.getMessage())


def _judge(path: Path, older: Path, wanted: str, content: bytes) -> str | None:
    """The problem with how `content` was taken as a checkpoint; None when it says the same."""
    path.write_bytes(content)
    log, messages = logging.getLogger("videogn"), _Messages()
    log.addHandler(messages)
    log.propagate = False
    try:
        found = checkpoint.newest(path.parent)
    except CheckpointError as error:
        return f"nothing was found: {error}"
    finally:
        log.removeHandler(messages)
        log.propagate = True
    if found is None:
        return "nothing was found, as of a new run"
    if found[0] == path:
        same = checkpoint.digest(found[1]) == wanted
        return None if same else "was loaded with other contents"
    if found[0] != older or checkpoint.digest(found[1]) != wanted:
        return f"{found[0].name} was taken instead"
    return "" if any(path.name in text for text in messages.texts) else "was not named"


def hostile(folder: Path) -> Iterator[Finding]:
    """What came of files that call something when they are unpickled."""
    folder.mkdir(parents=True)
    canary = folder / "canary"
    texts = calls(f"touch {canary}", f"open({str(canary)!r}, 'w')", str(canary))
    for name, data in texts.items():
        path = folder / "weights.pkl"
        path.write_bytes(entry(data))
        yield Finding(K4, f"pickle: {name}", _refusal(load_numeric_pickle, path, canary))
    for name, evil in (("model", _Touch(canary)), ("digest", _Touch(canary))):
        path = folder / "last.pt"
        torch.save({"model": {}, "digest": "0" * 64} | {name: evil}, path)
        yield Finding(K4, f"checkpoint: {name}", _refusal(checkpoint.load, path, canary))


class _Touch:
    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self._canary),)


def _refusal(load: Callable[[Path], object], path: Path, canary: Path) -> str:
    try:
        load(path)
    except (CheckpointError, WeightsError):
        return "it was run" if canary.exists() else ""
    return "it was read"
