"""Rows V1 and V2: tests that are broken off, meet bad videos, or are run in another way."""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.faults.jobs import start
from tests.faults.plan import Injection
from tests.faults.references import BN, References
from tests.faults.sabotage import slow_items
from tests.faults.waiting import Lost, Waiting, ended, expect, pause, until
from tests.test_experiment import make_root, read_test

V1, V2 = "V1 test killed, or a video fails", "V2 test in another way"
_RESULTS = ("test.json", "predictions.csv")
_PROTOCOL = ("eval.crops=three", "eval.num_clips=3", "data.num_workers=1")


def injections(references: References) -> Iterator[Injection]:
    """Every fault of the rows."""
    for seed in range(4):
        for number in (signal.SIGKILL, signal.SIGTERM):
            world = 1 + seed % 2
            play = partial(_broken_off, references, number, world, seed)
            quick = seed == 0
            yield Injection(V1, f"{number.name}, {world} rank(s) ({seed})", play, 1, quick)
    for world in (1, 2):
        for count in (1, 2):
            play = partial(_failing, references, count, world)
            name = f"{count} videos fail, {world} rank(s)"
            yield Injection(V1, name, play, 1, (world, count) == (2, 1))
    for norm in ((), (BN,)):
        for world in (1, 2, 3, 4):
            for overrides in _WAYS[world]:
                play = partial(_in_another_way, references, norm, world, overrides)
                name = f"{world} rank(s), {' '.join(overrides)}{', bn' if norm else ''}"
                quick = bool(norm) and world == 3
                yield Injection(V2, name, play, is_quick=quick)


_WAYS: dict[int, list[tuple[str, ...]]] = {
    1: [("eval.views_per_forward=1",), ("eval.views_per_forward=7", "data.num_workers=2")],
    2: [("data.num_workers=0",), ("eval.views_per_forward=2",)],
    3: [("eval.views_per_forward=4",)],
    4: [("data.num_workers=2",)],
}


def _words(weights: Path, *overrides: str) -> list[str]:
    return ["test", "--ckpt", str(weights), "--out", "out", *_PROTOCOL, *overrides]


def _undisturbed(references: References, weights: Path) -> Waiting[Path]:
    """The folder of the test of some weights without a fault, made once."""
    out = weights.parents[2] / "tested"
    yield from references.once(out, lambda: expect(start(_words(weights), out), 0))
    return out / "out"


def _weights(references: References, norm: tuple[str, ...]) -> Waiting[Path]:
    run = yield from references.unbroken(*norm)
    return run / "checkpoints" / "last.pt"


def _require_same(folder: Path, wanted: Path) -> None:
    for name in _RESULTS:
        if (folder / "out" / name).read_bytes() != (wanted / name).read_bytes():
            raise Lost(f"another {name}")
    left = [path.name for path in folder.rglob("*.tmp")]
    if left:
        raise Lost(f"left {left} behind")


def _broken_off(
    references: References, number: int, world: int, seed: int, folder: Path
) -> Waiting[None]:
    """Broken off in its middle, it goes on, and is the test that nothing disturbed."""
    weights = yield from _weights(references, ())
    wanted = yield from _undisturbed(references, weights)
    mark = folder / "mark"
    slow = slow_items("build_video_loader", 0.5, mark)
    job = start(_words(weights), folder, world=world, sabotage=slow)
    yield from until(mark.exists, job, "the test")
    yield from pause(random.Random(seed).uniform(0.1, 1.0))
    job.send(number, group=bool(seed % 2))
    codes = yield from ended(job, 10)
    if number == signal.SIGTERM and set(codes) != {130}:
        raise Lost(f"ended with {codes} instead of 130")
    if (folder / "out" / "test.json").exists():
        raise Lost("has a result already")
    yield from expect(start(_words(weights), folder, world=world), 0)
    _require_same(folder, wanted)


def _failing(references: References, count: int, world: int, folder: Path) -> Waiting[None]:
    """Those that fail are named and count as wrong; the others' rows are what they were."""
    weights = yield from _weights(references, ())
    wanted = yield from _undisturbed(references, weights)
    root = make_root(folder / "root")
    names = [f"videos/val_{number}.mp4" for number in (1, 4)[:count]]
    for name in names:
        (root / name).write_bytes(b"no video")
    job = start(_words(weights, f"data.root={root}"), folder, world=world)
    yield from expect(job, 3, says=f"{count} of 5 videos")
    report = read_test(folder / "out")
    if [entry["path"] for entry in report["failed"]] != names or report["num_videos"] != 5:
        raise Lost(f"counted {report['failed']} of {report['num_videos']}")
    for found, row in zip(_rows(folder / "out"), _rows(wanted), strict=True):
        if found != row and found.split(",")[0] not in names:
            raise Lost(f"another row: {found}")


def _rows(folder: Path) -> list[str]:
    return (folder / "predictions.csv").read_text(encoding="utf-8").splitlines()


def _in_another_way(
    references: References,
    norm: tuple[str, ...],
    world: int,
    overrides: tuple[str, ...],
    folder: Path,
) -> Waiting[None]:
    """To the last digit the same."""
    weights = yield from _weights(references, norm)
    wanted = yield from _undisturbed(references, weights)
    yield from expect(start(_words(weights, *overrides), folder, world=world), 0)
    _require_same(folder, wanted)
