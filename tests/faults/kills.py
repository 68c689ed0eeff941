"""Rows R1 and R2: runs that are killed go on, and come to the unbroken run's result to the bit."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from tests.faults.jobs import Job, start, start_script
from tests.faults.plan import Injection
from tests.faults.references import BN, References, expect_same, logged
from tests.faults.sabotage import all_of, slow_disk, slow_items
from tests.faults.waiting import Lost, Waiting, ended, pause, until

R1, R2 = "R1 SIGKILL in start, training or test", "R2 SIGKILL inside a checkpoint write"
_START, _STEP, _WRITE, _TEST = "start", "step", "write", "test"
# What each run lives through before it may come to its end.
_LIVES = {
    R1: [[_STEP], [_TEST], [_STEP, _TEST], [_START, _STEP, _TEST, _TEST]],
    R2: [[_WRITE], [_WRITE, _WRITE], [_WRITE, _WRITE]],
}
_TRIES = 12  # kills aimed at a write that may miss it before the injection counts as lost


def injections(references: References) -> Iterator[Injection]:
    """54 kills, 21 of them inside a write: GN and BN, one and two ranks, and `python run.py`."""
    for world in (1, 2):
        for norm in ((), (BN,)):
            for row, lives in _LIVES.items():
                for number, moments in enumerate(lives):
                    name = f"{norm or 'gn'}, {world} rank(s), in {moments} ({number})"
                    play = _life(references, moments, norm, world, seed=number)
                    quick = number == 0 and (world == 2) == bool(norm)
                    yield Injection(row, name, play, count=len(moments), is_quick=quick)
    for row, moment in ((R1, _STEP), (R2, _WRITE)):
        yield Injection(row, f"python run.py, in a {moment}", _script(references, moment))


def _life(
    references: References, moments: Sequence[str], norm: Sequence[str], world: int, seed: int
) -> Callable[[Path], Waiting[None]]:
    def play(folder: Path) -> Waiting[None]:
        overrides = [*norm, f"optim.epochs={6 * world}"]  # the same number of steps
        unbroken = yield from references.unbroken(*overrides, world=world)
        words, rng = references.words(*overrides), random.Random(seed)
        slow = all_of(
            slow_disk(),
            slow_items("build_train_loader", 0.02, folder / "begun"),
            slow_items("build_video_loader", 0.3, folder / "tested"),
        )

        def begin() -> Job:
            return start(words, folder, world=world, sabotage=slow)

        for moment in moments:
            yield from _kill(begin, folder, moment, rng)
        yield from expect_same(start(words, folder, world=world), folder, unbroken)

    return play


def _script(references: References, moment: str) -> Callable[[Path], Waiting[None]]:
    """As a user starts it, and on the disk that there is."""

    def play(folder: Path) -> Waiting[None]:
        wide = "model.width=32"  # a thinner network is written too quickly to be hit
        unbroken = yield from references.unbroken(wide)
        words = references.words(wide)
        yield from _kill(lambda: start_script(words, folder), folder, moment, random.Random(0))
        yield from expect_same(start_script(words, folder), folder, unbroken)

    return play


def _kill(begin: Callable[[], Job], folder: Path, moment: str, rng: random.Random) -> Waiting[None]:
    """Starts the run and kills it at a moment; for a write, as often as it takes to hit one."""
    for _ in range(_TRIES):
        known = _unfinished(folder)
        job = begin()
        yield from _until_moment(job, folder, moment, rng)
        if job.has_ended:
            raise Lost(f"ended with {job.codes} before it could be killed")
        # Or the process alone: its workers must not live on and hold the run.
        job.send(signal.SIGKILL, group=rng.random() < 0.5)
        yield from ended(job, 10)
        # What is left of a file proves that the kill came while it was written.
        if moment != _WRITE or _unfinished(folder) - known:
            return
    raise Lost(f"no write was hit in {_TRIES} kills")


def _until_moment(job: Job, folder: Path, moment: str, rng: random.Random) -> Waiting[None]:
    if moment == _START:
        yield from pause(rng.uniform(0, 0.5))
    elif moment == _STEP:
        goal = logged(folder / "run") + rng.randrange(2, 8)
        yield from until(lambda: logged(folder / "run") >= goal, job, f"step {goal}")
    elif moment == _TEST:
        mark = folder / "tested"
        mark.unlink(missing_ok=True)
        yield from until(mark.exists, job, "the test")
        yield from pause(rng.uniform(0, 0.2))
    else:
        known, writes = _unfinished(folder), rng.randrange(1, 3)
        seen: set[tuple[str, int]] = set()

        def begun() -> bool:
            seen.update(_unfinished(folder) - known)
            return len(seen) >= writes

        yield from until(begun, job, f"{writes} writes")
        yield from pause(rng.uniform(0, 0.1))


def _unfinished(folder: Path) -> set[tuple[str, int]]:
    """The files among the checkpoints that have not got their name yet."""
    found = set()
    for path in (folder / "run" / "checkpoints").glob("*.tmp"):
        try:
            found.add((path.name, path.stat().st_ino))
        except FileNotFoundError:  # finished meanwhile
            continue
    return found
