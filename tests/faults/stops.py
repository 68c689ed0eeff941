"""Row R3: signals end a run within 10 s, saved, and it goes on to the unbroken run's result."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.jobs import start
from tests.faults.plan import Injection
from tests.faults.references import References, expect_same, logged, require_good
from tests.faults.sabotage import slow_items
from tests.faults.waiting import Lost, Waiting, ended, expect, pause, until

ROW = "R3 SIGTERM, SIGINT, SIGUSR1"
WITHIN = 10.0  # seconds to save and leave
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
# Which loader a run is waiting for tells where it is.
_PHASES = {
    "start": "build_train_loader",
    "training": "build_train_loader",
    "monitoring": "build_monitor_loader",
    "test": "build_video_loader",
}


def injections(references: References) -> Iterator[Injection]:
    """Three signals, to the process or to its workers too, in four places; and some more."""
    for phase in _PHASES:
        for number in _SIGNALS:
            for group in (False, True):
                to = "the group" if group else "the process"
                quick = group and (phase, number) in [
                    ("monitoring", signal.SIGUSR1),
                    ("training", signal.SIGINT),
                    ("test", signal.SIGTERM),
                ]
                play = _signalled(references, phase, number, group=group, world=1)
                yield Injection(ROW, f"{number.name} to {to} in {phase}", play, is_quick=quick)
    for phase in _PHASES:
        play = _signalled(references, phase, signal.SIGTERM, group=True, world=2)
        yield Injection(ROW, f"SIGTERM to two ranks in {phase}", play)
    yield Injection(ROW, "a second signal", _twice(references), is_quick=True)


def _signalled(
    references: References, phase: str, number: int, *, group: bool, world: int
) -> Callable[[Path], Waiting[None]]:
    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken(world=world)
        words, mark, run = references.words(), folder / "mark", folder / "run"
        seconds = 1.0 if phase == "start" else 0.1
        slow = slow_items(_PHASES[phase], seconds, mark)
        job = start(words, folder, world=world, sabotage=slow)
        yield from until(mark.exists, job, phase)
        if phase == "training":
            yield from until(lambda: logged(run) >= 5, job, "step 5")
        elif phase == "test":  # of five videos, so that there is a middle
            yield from until(lambda: len(mark.read_text().splitlines()) >= 2, job, "two videos")
        steps = logged(run)
        job.send(number, group=group)
        begin = time.monotonic()
        yield from expect(job, 130, within=WITHIN)
        if time.monotonic() - begin > WITHIN:
            raise Lost(f"took {time.monotonic() - begin:.1f} s to leave")
        if phase != "start":
            require_good(run, min(steps, 24))
        if phase == "test" and world == 1:
            mark.write_text("")
            slow = slow_items(_PHASES[phase], 0, mark)
            yield from expect_same(start(words, folder, sabotage=slow), folder, unbroken)
            again = len(mark.read_text().splitlines())
            if again > 4:
                raise Lost(f"scored {again} of 5 videos again after two of them were")
            return
        yield from expect_same(start(words, folder, world=world), folder, unbroken)

    return play


def _twice(references: References) -> Callable[[Path], Waiting[None]]:
    """Something is stuck: the first signal waits for the step, the second does not."""

    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken()
        words, mark = references.words(), folder / "mark"
        job = start(words, folder, sabotage=slow_items("build_train_loader", 60, mark))
        yield from until(mark.exists, job, "training")
        yield from pause(0.5)
        job.send(signal.SIGTERM)
        yield from pause(3)  # one that comes sooner is an echo of the first
        job.send(signal.SIGTERM)
        codes = yield from ended(job, 5)
        if codes == [0]:
            raise Lost("a second signal was taken for success")
        job.kill()  # its workers
        yield from expect_same(start(words, folder), folder, unbroken)

    return play
