"""Rows K1 to K5: checkpoints that are damaged, another network's, hostile, or no good."""

from __future__ import annotations

import logging
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.faults.jobs import Lost, Waiting, expect, start
from tests.faults.plan import Injection
from tests.faults.references import BN, References, expect_same, files
from tests.faults.table import Finding
from tests.test_experiment import CLASSES, make_root
from tests.weights.test_pickles import calls, entry
from videogn.engine import checkpoint
from videogn.errors import CheckpointError, WeightsError
from videogn.weights.pickles import load_numeric_pickle

K1, K2 = "K1 checkpoint cut, flipped, zeroed", "K2 newest checkpoints damaged"
K3, K4 = "K3 another network's checkpoint", "K4 hostile file"
K5 = "K5 weights or momentum no good"
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


def resumed(references: References) -> Iterator[Injection]:
    """Runs that find their newest checkpoints damaged, or are given another network's."""
    for count in (1, 2, 3):
        for way in ("cut", "flipped", "empty"):
            play = partial(_newest_damaged, references, count, way)
            yield Injection(
                K2, f"the newest {count} {way}", play, 1, (count, way) == (1, "flipped")
            )
    for overrides, says in _OTHERS:
        norm = (BN,) if "gn" in overrides[0] else ()
        play = partial(_another, references, norm, overrides, says)
        name = " ".join(overrides)
        yield Injection(K3, name, play, is_quick=overrides[0] == "model.norm.num_groups=8")
    yield Injection(K3, "fewer classes", partial(_fewer_classes, references))
    for name, spoil in _NO_GOOD.items():
        play = partial(_no_good, references, spoil)
        yield Injection(K5, name, play, is_quick=name == "a weight is NaN")


# The checkpoint is one of a run with 4 groups of GN, 4 frames, stride 2.
_OTHERS = [
    (["model.norm.kind=bn"], "norm"),
    (["model.norm.kind=gn"], "norm"),
    (["model.norm.kind=ln"], "norm"),
    (["model.norm.num_groups=8"], "groups"),
    (["model.norm.num_groups=1"], "groups"),
    (["model.norm.num_groups=2"], "groups"),
    (["model.norm.eps=1e-3"], "eps"),
    (["model.arch=i3d_r50"], "was trained with"),
    (["model.arch=c2d_r50"], "was trained with"),
    (["model.width=16"], "width"),
    (["model.stem_pool_padding=0"], "pool"),
    (["data.num_frames=8"], "frames"),
    (["data.frame_stride=1"], "stride"),
    (["data.crop_size=31"], ""),
    (["data.mean=[0.5,0.5,0.5]"], "mean"),
    (["data.std=[0.5,0.5,0.5]"], "std"),
]


def _checkpoints(run: Path) -> list[Path]:
    """Those of steps, the newest first."""
    return sorted((run / "checkpoints").glob("step_*.pt"), reverse=True)


def _spoil_file(path: Path, way: str) -> None:
    """In its place, as a disk does it: under all of its names."""
    with path.open("r+b") as file:
        if way != "flipped":
            file.truncate(0 if way == "empty" else path.stat().st_size // 2)
            return
        file.seek(path.stat().st_size // 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


def _newest_damaged(references: References, count: int, way: str, folder: Path) -> Waiting[None]:
    unbroken = yield from references.unbroken()
    run = yield from references.stopped(folder)
    spoilt = _checkpoints(run)
    everything = count >= len(spoilt)
    for path in spoilt[:count]:
        _spoil_file(path, way)
    before = files(run)
    job = start(references.words(), folder)
    if everything:
        yield from expect(job, 2, says="damaged")
        if files(run) != before:
            raise Lost("changed a run that cannot be gone on with")
        return
    yield from expect_same(job, folder, unbroken)
    unnamed = [path.name for path in spoilt[:count] if path.name not in job.output]
    if unnamed:
        raise Lost(f"does not name {unnamed}")


def _another(
    references: References, norm: tuple[str, ...], overrides: list[str], says: str, folder: Path
) -> Waiting[None]:
    run = yield from references.unbroken(*norm)
    path = run / "checkpoints" / "last.pt"
    words = [word for word in references.words(*norm) if not word.startswith("run_dir=")]
    job = start([*words, f"resume={path}", *overrides], folder)
    yield from expect(job, 2, within=60, says=says)
    if (folder / "runs").exists():
        raise Lost("began a run")


def _fewer_classes(references: References, folder: Path) -> Waiting[None]:
    run = yield from references.unbroken()
    root = make_root(folder / "root", classes=CLASSES[:2])
    path = run / "checkpoints" / "last.pt"
    words = [word for word in references.words() if not word.startswith("run_dir=")]
    job = start([*words, f"resume={path}", f"data.root={root}"], folder)
    yield from expect(job, 2, says="classes")


def _nan_weight(contents: dict[str, Any]) -> None:
    contents["model"]["conv1.weight"].view(-1)[5] = torch.nan


def _infinite_statistic(contents: dict[str, Any]) -> None:
    contents["model"]["fc.bias"][0] = torch.inf


def _nan_momentum(contents: dict[str, Any]) -> None:
    contents["optimizer"]["state"][0]["momentum_buffer"].view(-1)[5] = torch.nan


def _no_momentum(contents: dict[str, Any]) -> None:
    contents["optimizer"]["state"] = {}


def _no_optimizer(contents: dict[str, Any]) -> None:
    del contents["optimizer"]


_NO_GOOD: dict[str, Callable[[dict[str, Any]], None]] = {
    "a weight is NaN": _nan_weight,
    "a weight is inf": _infinite_statistic,
    "a momentum is NaN": _nan_momentum,
    "no momentum": _no_momentum,
    "no optimizer": _no_optimizer,
}


def _no_good(
    references: References, spoil: Callable[[dict[str, Any]], None], folder: Path
) -> Waiting[None]:
    """Whole by its digest, and yet nothing to go on from: the one before, or a refusal."""
    unbroken = yield from references.unbroken()
    run = yield from references.stopped(folder)
    newest = _checkpoints(run)[0]
    contents = checkpoint.load(newest)
    spoil(contents)
    checkpoint.save(newest, contents)
    job = start(references.words(), folder)
    begin = time.monotonic()
    while not job.has_ended and time.monotonic() - begin < 60:
        yield
    if job.codes == [0]:
        yield from expect_same(job, folder, unbroken)
        if newest.name not in job.output:
            raise Lost(f"does not name {newest.name}")
        return
    yield from expect(job, 2, says=newest.name)
