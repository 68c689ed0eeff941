"""Rows P1 to P5: ranks that die or get stuck, and data that does not divide among them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch.nn.functional as F

from tests.faults.jobs import Job, start, start_script
from tests.faults.plan import Injection
from tests.faults.references import BN, References, expect_same, logged, require_good, require_same
from tests.faults.sabotage import at_call, hang, on_rank, raises, signal_itself
from tests.faults.waiting import Lost, Waiting, ended, expect, until
from tests.test_experiment import make_root, words
from videogn import build
from videogn.engine import checkpoint

P1, P2 = "P1 rank killed or raises", "P2 number of videos no multiple of ranks"
P3, P4 = "P3 fewer videos than ranks", "P4 one rank's data all bad"
P5 = "P5 BN statistics at a save and a test"
HANGS = "H2 rank hangs or is stopped"
_TIMEOUT = 8.0  # rank_timeout, seconds
_STEP = 8
# Where a rank may be: the function that it calls there, and how often it has called it by then.
_PLACES: dict[str, tuple[Any, str, int]] = {
    "a step": (F, "cross_entropy", _STEP),
    "a save": (checkpoint, "save", 2),
    "monitoring": (build, "build_monitor_loader", 1),
    "the test": (build, "build_video_loader", 1),
}


def ends(references: References) -> Iterator[Injection]:
    """A rank that is killed, or raises, at every place; torchrun starts all again."""
    for place, (owner, name, number) in _PLACES.items():
        for rank in (0,) if place == "a save" else (0, 1):
            for what, action in (
                ("killed", lambda *_, **__: signal_itself(signal.SIGKILL)()),
                ("raises", raises(ValueError("a defect"))),
            ):
                mark = _mark(owner, name, number, rank, action)
                play = partial(_lost_rank, references, mark, rank)
                quick = (place, what, rank) == ("a step", "killed", 1)
                yield Injection(P1, f"rank {rank} {what} in {place}", play, 1, quick)
    yield Injection(
        P1, "rank 1 killed under torchrun --max-restarts 1", partial(_torchrun, references)
    )


def hangs(references: References) -> Iterator[Injection]:
    """A rank that sleeps or is stopped, at every place; its peers leave within their limit."""
    for place, (owner, name, number) in _PLACES.items():
        for rank in (0,) if place == "a save" else (0, 1):
            for what, action in (
                ("sleeps", hang),
                ("stopped", lambda *_, **__: signal_itself(signal.SIGSTOP)()),
            ):
                mark = _mark(owner, name, number, rank, action)
                play = partial(_lost_rank, references, mark, rank)
                quick = (place, what, rank) == ("a step", "stopped", 1)
                yield Injection(HANGS, f"rank {rank} {what} in {place}", play, 1, quick)


def uneven(references: References) -> Iterator[Injection]:
    """Data that does not divide among ranks, or that one of them cannot read; BN's statistics."""
    for train, val, world in [(7, 5, 2), (8, 7, 3), (5, 6, 4), (9, 4, 2), (6, 5, 4)]:
        play = partial(_uneven, references, train, val, world, 0)
        name = f"{train} training and {val} validation videos on {world} ranks"
        yield Injection(P2, name, play, 1, (train, world) == (7, 2))
    for train, val, world in [(8, 1, 2), (8, 2, 3), (8, 1, 4), (1, 1, 2)]:
        # Less than one clip for each rank is no step, and refused on all of them.
        play = partial(_uneven, references, train, val, world, 2 if train < world else 0)
        name = f"{train} training and {val} validation videos on {world} ranks"
        yield Injection(P3, name, play, 1, (train, val, world) == (8, 1, 2))
    for world in (2, 3):
        for split in ("train", "val"):
            play = partial(_bad_data, references, split, world)
            yield Injection(P4, f"{split} of one of {world} ranks", play, 1, world == 2)
    for precise in (0, 2):
        for save in (3, 5, 100):
            play = partial(_statistics, references, precise, save)
            name = f"precise_bn_batches={precise}, saved each {save} steps"
            yield Injection(P5, name, play, 1, (precise, save) == (0, 5))


def _mark(
    owner: Any, name: str, number: int, rank: int, action: Callable[..., Any]
) -> Callable[[Path], Callable[[int], None]]:
    """Where the action is noted -> what spoils the rank."""
    return lambda mark: on_rank(rank, at_call(owner, name, number, action, mark=mark))


def _lost_rank(
    references: References,
    spoilt: Callable[[Path], Callable[[int], None]],
    rank: int,
    folder: Path,
) -> Waiting[None]:
    """The others leave within the limit, not with 0; torchrun would then end the lost one."""
    unbroken = yield from references.unbroken(world=2)
    command, mark = references.words(f"rank_timeout={_TIMEOUT}"), folder / "mark"
    job = start(command, folder, world=2, sabotage=spoilt(mark))
    yield from until(mark.exists, job, "the fault")
    others = [other for other in range(2) if other != rank]
    yield from _have_left(job, others, _TIMEOUT + 10)
    job.kill()
    if 0 in (job.codes[other] for other in others):
        raise Lost(f"a rank took it for success: {job.codes}")
    yield from expect_same(start(command, folder, world=2), folder, unbroken)


def _have_left(job: Job, ranks: Sequence[int], limit: float) -> Waiting[None]:
    """Waits for the end of some ranks."""
    deadline = time.monotonic() + limit
    while any(job.codes[rank] is None for rank in ranks):
        if time.monotonic() > deadline:
            raise Lost(f"the other rank still waits after {limit:g} s: {job.tail}")
        yield


def _torchrun(references: References, folder: Path) -> Waiting[None]:
    """The real launcher starts both ranks again by itself, and they go on."""
    longer = ("optim.epochs=60", "eval.monitor_every_epochs=30")  # than it takes to see it train
    unbroken = yield from references.unbroken(*longer, world=2)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = references.words(*longer, "rank_timeout=60")  # starting python twice takes its time
    job = start_script(command, folder, *launcher, "--max-restarts", "1")
    yield from until(lambda: logged(folder / "run") >= 5, job, "step 5")
    _kill_rank_1(job)
    codes = yield from ended(job)  # not `expect`: the launcher prints tracebacks of its own
    if codes != [0]:
        raise Lost(f"ended with {codes}: {job.tail}")
    if "going on with" not in job.output:
        raise Lost("was not started again")
    require_same(folder / "run", unbroken)


def _kill_rank_1(job: Job) -> None:
    """Kills one of the processes that torchrun has started."""
    for pid in job.children():
        environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        if b"RANK=1" in environment:
            os.kill(pid, signal.SIGKILL)
            return
    raise Lost("torchrun has no rank 1")


def _uneven(
    references: References, train: int, val: int, world: int, code: int, folder: Path
) -> Waiting[None]:
    """It trains to its end, and its test is the one that a single process makes of its weights."""
    root = references.root(train, val)
    few = ("optim.epochs=3", "eval.monitor_every_epochs=1", "optim.clips_per_gpu=1")
    job = start(words(root, "run_dir=run", *few), folder, world=world)
    yield from expect(job, code)
    if not code:
        yield from _same_test(folder, 1)


def _same_test(folder: Path, world: int, *overrides: str) -> Waiting[None]:
    """The test of `last.pt` on so many ranks is the one that the run has made."""
    path, out = folder / "run" / "checkpoints" / "last.pt", folder / f"tested {world}"
    command = ["test", "--ckpt", str(path), "--out", str(out), *overrides]
    yield from expect(start(command, folder, world=world), 0)
    for name in ("predictions.csv", "test.json"):
        if (out / name).read_bytes() != (folder / "run" / name).read_bytes():
            raise Lost(f"another {name} of the same weights on {world} rank(s)")


def _bad_data(references: References, split: str, world: int, folder: Path) -> Waiting[None]:
    """All ranks come to the same end: no share of bad videos keeps one waiting for another."""
    root = make_root(folder / "root", train=8, val=6)
    shared = range(1, 6, world) if split == "val" else range(8)
    for number in shared:
        (root / "videos" / f"{split}_{number}.mp4").write_bytes(b"no video")
    command = words(root, "run_dir=run", "data.max_bad_fraction=0.9", "rank_timeout=30")
    job = start(command, folder, world=world)
    yield from expect(job, 0 if split == "val" else 3, within=60)
    if split == "val":
        yield from _same_test(folder, 1)


def _statistics(references: References, precise: int, save: int, folder: Path) -> Waiting[None]:
    """Killed and gone on, and saved more or less often: the same statistics on all ranks."""
    norm = (BN, f"eval.precise_bn_batches={precise}")
    unbroken = yield from references.unbroken(*norm, world=2)
    command = references.words(*norm, f"save_every_steps={save}")
    job = start(command, folder, world=2)
    yield from until(lambda: logged(folder / "run") >= 8, job, "step 8")
    job.kill()
    yield from ended(job, 10)
    if save < 100:
        require_good(folder / "run", save)
    yield from expect_same(start(command, folder, world=2), folder, unbroken)
    yield from _same_test(folder, 1)
    yield from _same_test(folder, 3)
