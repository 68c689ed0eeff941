"""Rows R10 and R11: the same run again, with something else than before, or twice at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from tests.faults.jobs import Job, start
from tests.faults.plan import Injection
from tests.faults.references import References, expect_same, files, logged, require_same
from tests.faults.sabotage import slow_items
from tests.faults.waiting import Lost, Waiting, ended, expect, until

R10, R11 = "R10 resumed with something else", "R11 two processes for one run"


def injections(references: References) -> Iterator[Injection]:
    """Every fault of the rows."""
    yield Injection(R10, "a finished run", partial(_finished, references), is_quick=True)
    free = {
        "no worker": "data.num_workers=0",
        "two workers": "data.num_workers=2",
        "another decoder time": "data.timeout=33",
        "rarer records": "keep_checkpoints=1",
        "fewer views at once": "eval.views_per_forward=1",
    }
    for name, override in free.items():
        quick = name == "two workers"
        yield Injection(R10, name, partial(_free, references, override), 1, quick)
    refused = {
        "a larger batch": (["optim.clips_per_gpu=4"], "optim.clips_per_gpu"),
        "another rate": (["optim.base_lr=0.5"], "optim.base_lr"),
        "another norm": (["model.norm.kind=bn"], "model.norm.kind"),
        "another seed": (["seed=5"], "seed"),
        "more frames": (["data.num_frames=8"], "data.num_frames"),
    }
    for name, (overrides, says) in refused.items():
        quick = name == "another norm"
        yield Injection(R10, name, partial(_refused, references, overrides, says, 1), 1, quick)
    other = partial(_refused, references, [], "global_batch", 2)
    yield Injection(R10, "two ranks instead of one", other)
    yield Injection(R11, "a second one on its folder", _second(references), is_quick=True)
    yield Injection(R11, "both at the same moment, new", _both(references, begun=False))
    yield Injection(R11, "both at the same moment, to go on", _both(references, begun=True))


def _finished(references: References, folder: Path) -> Waiting[None]:
    words = references.words()
    yield from expect(start(words, folder), 0)
    before = files(folder / "run")
    yield from expect(start(words, folder), 0, says="is finished")
    if files(folder / "run") != before:
        raise Lost("changed a finished run")


def _free(references: References, override: str, folder: Path) -> Waiting[None]:
    unbroken = yield from references.unbroken()
    yield from references.stopped(folder)
    yield from expect_same(start(references.words(override), folder), folder, unbroken)


def _refused(
    references: References, overrides: list[str], says: str, world: int, folder: Path
) -> Waiting[None]:
    """In one sentence, with nothing changed: the right command then goes on."""
    unbroken = yield from references.unbroken()
    run = yield from references.stopped(folder)
    before = files(run)
    job = start(references.words(*overrides), folder, world=world)
    yield from expect(job, 2, says=says)
    if files(run) != before:
        raise Lost("changed the run that it refused")
    yield from expect_same(start(references.words(), folder), folder, unbroken)


def _second(references: References) -> Callable[[Path], Waiting[None]]:
    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken()
        words = references.words()
        # So slow that it outlives the other's patience of 10 s.
        slow = slow_items("build_train_loader", 0.8, folder / "mark")
        first = start(words, folder, sabotage=slow)
        yield from until(lambda: logged(folder / "run") >= 2, first, "step 2")
        second = start(words, folder)
        codes = yield from ended(second, 30)
        if codes != [2]:
            raise Lost(f"the second ended with {codes}")
        if first.has_ended:
            raise Lost("the first had ended before the second was refused")
        yield from expect_same(first, folder, unbroken)

    return play


def _both(references: References, *, begun: bool) -> Callable[[Path], Waiting[None]]:
    """Each does the whole run, or is refused; none spoils what the other has."""

    def play(folder: Path) -> Waiting[None]:
        unbroken = yield from references.unbroken()
        words = [word for word in references.words() if not word.startswith("run_dir=")]
        base = folder / "runs" / "thin"
        if begun:
            yield from references.stopped(base)
        jobs: list[Job] = [start(words, folder) for _ in range(2)]
        codes = []
        for job in jobs:
            codes += yield from ended(job)
        if not set(codes) <= {0, 2} or 0 not in codes:
            raise Lost(f"ended with {codes}")
        runs = [path for path in base.iterdir() if path.is_dir()]
        if len(runs) != codes.count(0) and not begun:
            raise Lost(f"{len(runs)} folders of runs that ended with {codes}")
        for run in runs:
            require_same(run, unbroken)

    return play
