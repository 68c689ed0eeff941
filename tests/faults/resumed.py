"""Rows K2, K3 and K5: runs that find their checkpoints damaged, another network's, or no good."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.faults.jobs import start
from tests.faults.plan import Injection
from tests.faults.references import BN, References, expect_same, files
from tests.faults.waiting import Lost, Waiting, expect
from tests.test_experiment import CLASSES, make_root
from videogn.engine import checkpoint

K2, K3 = "K2 newest checkpoints damaged", "K3 another network's checkpoint"
K5 = "K5 weights or momentum no good"


def injections(references: References) -> Iterator[Injection]:
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
    (["model.norm.kind=ln"], "groups"),
    (["model.norm.num_groups=8"], "groups"),
    (["model.norm.num_groups=1"], "groups"),
    (["model.norm.num_groups=2"], "groups"),
    (["model.norm.eps=1e-3"], "eps"),
    (["model.arch=i3d_r50_8x8"], ""),
    (["model.arch=c2d_r50"], "kernels_t"),
    (["model.width=16"], "width"),
    (["model.stem_pool_padding=0"], "pool"),
    (["data.num_frames=8"], "resume=never"),
    (["data.frame_stride=1"], "stride"),
    (["data.crop_size=64", "data.short_side=[64,70]", "eval.short_side=64"], "window"),
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
