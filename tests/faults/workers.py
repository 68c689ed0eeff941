"""Row R6: loader workers that die, get stuck or have no memory; the run says so and goes on later.

And those of the hangs that are a worker's or a decoder's.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.faults.jobs import Sabotage, Waiting, expect, start
from tests.faults.plan import Injection
from tests.faults.references import References, expect_same
from tests.faults.sabotage import (
    exits,
    hang,
    in_decoder,
    in_worker,
    memory_error,
    signal_itself,
)

ROW = "R6 loader worker dies or fails"
HANGS = "H1 worker or decoder hangs"
_VIDEOS = {"training": "train_3.mp4", "monitoring or test": "val_2.mp4"}
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
    "sleeps": hang,
    "SIGSTOP": signal_itself(signal.SIGSTOP),
    "ignores signals": lambda: [
        *(signal.signal(n, signal.SIG_IGN) for n in (signal.SIGTERM, signal.SIGINT)),
        hang(),
    ],
}


def deaths(references: References) -> Iterator[Injection]:
    """Five ways to die, where it trains and where it evaluates, at first or later."""
    for phase, video in _VIDEOS.items():
        for name, action in _DEATHS.items():
            number = 1 if phase != "training" or name == "SIGSEGV" else 2
            says = f"{video}" if name != "MemoryError" else ""
            play = partial(_ends, references, in_worker(action, video, number), says)
            quick = phase == "training" and name in ("SIGSEGV", "MemoryError")
            yield Injection(ROW, f"{name} in {phase}", play, is_quick=quick)


def hangs(references: References) -> Iterator[Injection]:
    """A worker that sleeps, is stopped or is deaf, and a decoder that never ends: all are ended."""
    for phase, video in _VIDEOS.items():
        for name, action in _HANGS.items():
            for number in (1, 2):
                spoilt = in_worker(action, video, number)
                play = partial(_ends, references, spoilt, video)
                quick = (phase, name, number) == ("training", "SIGSTOP", 1)
                yield Injection(HANGS, f"worker {name} in {phase} ({number})", play, 1, quick)
        spoilt = in_decoder(_spin, video)
        play = partial(_ends, references, spoilt, video)
        yield Injection(HANGS, f"decoder spins in {phase}", play)


def _ends(references: References, sabotage: Sabotage, says: str, folder: Path) -> Waiting[None]:
    """The run ends in one sentence that names the file; without the fault it goes on."""
    unbroken = yield from references.unbroken()
    words = references.words()
    limited = [*words, f"data.timeout={_TIMEOUT}"]
    job = start(limited, folder, sabotage=sabotage)
    # 5 is for those that had no memory left.
    yield from expect(job, 3, *([] if says else [5]), within=_WITHIN, says=says)
    yield from expect_same(start(words, folder), folder, unbroken)
