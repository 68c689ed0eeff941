"""Row R6: loader workers that die, get stuck or have no memory; the run says so and goes on later.

And those of the hangs that are a worker's or a decoder's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.faults.jobs import start
from tests.faults.plan import Injection
from tests.faults.references import References, expect_same
from tests.faults.sabotage import (
    all_of,
    exits,
    hang,
    in_worker,
    memory_error,
    signal_itself,
    slow_items,
)
from tests.faults.waiting import Waiting, expect, until

ROW = "R6 loader worker dies or fails"
HANGS = "H1 worker or decoder hangs"
# Where a run is -> what it reads there, and with which loader.
_PHASES = {
    "training": ("train_3.mp4", "build_train_loader"),
    "monitoring": ("val_2.mp4", "build_monitor_loader"),
    "the test": ("val_2.mp4", "build_video_loader"),
}
_TIMEOUT = 2.0  # data.timeout, seconds
_WITHIN = _TIMEOUT + 10 + 15  # beside it the reader's margin, and the run up to there

_DEATHS: dict[str, Callable[[], object]] = {
    "SIGKILL": signal_itself(signal.SIGKILL),
    "SIGSEGV": signal_itself(signal.SIGSEGV),
    "exit(0)": exits(0),
    "exit(3)": exits(3),
    "MemoryError": memory_error,
}


def _spin() -> None:
    """Computes for ever, as a decoder does that is lost in a damaged stream."""
    while True:
        pass


_HANGS: dict[str, Callable[[], object]] = {
    "worker sleeps": hang,
    "worker is stopped": signal_itself(signal.SIGSTOP),
    "decoder spins": _spin,
    "worker is deaf": lambda: [
        *(signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGINT)),
        hang(),
    ],
}


def deaths(references: References) -> Iterator[Injection]:
    """Five ways to die, where it trains and where it evaluates."""
    for phase in _PHASES:
        for name, action in _DEATHS.items():
            number = 2 if phase == "training" and name != "SIGSEGV" else 1
            play = partial(_ends, references, phase, action, number)
            quick = (phase, name) in [("training", "SIGSEGV"), ("the test", "MemoryError")]
            yield Injection(ROW, f"{name} in {phase}", play, is_quick=quick)


def hangs(references: References) -> Iterator[Injection]:
    """A worker that sleeps, is stopped or is deaf, or whose decoder never ends, is ended."""
    for phase in _PHASES:
        for name, action in _HANGS.items():
            for number in (1, 2) if phase == "training" else (1,):
                play = partial(_ends, references, phase, action, number)
                quick = (phase, name, number) == ("training", "worker is stopped", 1)
                yield Injection(HANGS, f"{name} in {phase} ({number})", play, 1, quick)


def _ends(
    references: References,
    phase: str,
    action: Callable[[], object],
    number: int,
    folder: Path,
) -> Waiting[None]:
    """The run ends in one sentence that names the file; without the fault it goes on."""
    unbroken = yield from references.unbroken()
    words, mark = references.words(), folder / "mark"
    video, builder = _PHASES[phase]
    spoilt = in_worker(action, video, number, after=mark)
    job = start(
        [*words, f"data.timeout={_TIMEOUT}"],
        folder,
        sabotage=all_of(slow_items(builder, 0, mark), spoilt),
    )
    yield from until(mark.exists, job, phase)
    if action is memory_error:
        yield from expect(job, 3, 5, within=_WITHIN)
    else:
        yield from expect(job, 3, within=_WITHIN, says=video)
    yield from expect_same(start(words, folder), folder, unbroken)
