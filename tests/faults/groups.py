"""The groups of faults that the command line knows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tests.checkpoints import write_checkpoint
from tests.faults import (
    again,
    configs,
    damage,
    disks,
    evaluations,
    kills,
    mirror,
    numbers,
    processes,
    resumed,
    stops,
    workers,
)
from tests.faults.injection import inject
from tests.faults.lists import list_faults, problem_of
from tests.faults.media import Originals, faults
from tests.faults.plan import Injection, play
from tests.faults.references import References
from tests.faults.table import Finding


@dataclass(frozen=True)
class Terms:
    """How to inject.

    Attributes:
        folder: to work in.
        quick: only a few of every row.
        only: words that the row or the name must hold.
        jobs: runs at the same time.
    """

    folder: Path
    quick: bool
    only: str
    jobs: int

    def wants(self, row: str, name: str, is_quick: bool) -> bool:
        """Whether a fault is to be injected."""
        return self.only in f"{row}: {name}" and (is_quick or not self.quick)

    @cached_property
    def references(self) -> References:
        """The unbroken runs, shared by all groups."""
        return References(self.folder / "references")

    def play(self, injections: Iterable[Injection], name: str, jobs: int = 0) -> Iterator[Finding]:
        """What came of those of the injections that are wanted."""
        wanted = [x for x in injections if self.wants(x.row, x.name, x.is_quick)]
        yield from play(wanted, self.folder / name, jobs or self.jobs)


def _data(terms: Terms) -> Iterator[Finding]:
    media = faults(Originals(terms.folder / "originals"))
    wanted = [x for x in media if terms.wants(x.group, x.name, x.is_quick)]
    if wanted:
        for outcome in inject(wanted, terms.folder / "media"):
            fault = outcome.fault
            yield Finding(fault.group, repr(fault.name), outcome.problem)
    for number, fault in enumerate(list_faults()):
        if terms.wants(fault.group, fault.name, True):
            problem = problem_of(fault, terms.folder / f"list {number}")
            yield Finding(fault.group, repr(fault.name), problem)


def _runs(terms: Terms) -> Iterator[Finding]:
    modules = (kills, stops, disks, numbers, again)
    found = [x for module in modules for x in module.injections(terms.references)]
    found += [*workers.deaths(terms.references), *mirror.failures(terms.references)]
    yield from terms.play(found, "runs")


def _hangs(terms: Terms) -> Iterator[Finding]:
    found = [*workers.hangs(terms.references), *mirror.hangs(terms.references)]
    found += processes.hangs(terms.references)
    # They wait more than they compute.
    yield from terms.play(found, "hangs", 3 * terms.jobs)


def _configs(terms: Terms) -> Iterator[Finding]:
    for number, fault in enumerate(configs.config_faults()):
        if terms.wants(fault.group, fault.name, True):
            problem = configs.problem_of(fault, terms.folder / f"config {number}")
            yield Finding(fault.group, repr(fault.name), problem)


def _checkpoints(terms: Terms) -> Iterator[Finding]:
    if terms.wants(damage.K1, "", True):
        good = write_checkpoint(terms.folder / "good.pt")
        count = damage.Numbers(cuts=6, flips=20, pages=10) if terms.quick else damage.Numbers()
        yield from damage.damaged(good, terms.folder / "damaged", count)
    if terms.wants(damage.K4, "", True):
        yield from damage.hostile(terms.folder / "hostile")
    yield from terms.play(resumed.injections(terms.references), "checkpoints")


def _processes(terms: Terms) -> Iterator[Finding]:
    found = [*processes.ends(terms.references), *processes.uneven(terms.references)]
    yield from terms.play(found, "processes")


def _tests(terms: Terms) -> Iterator[Finding]:
    yield from terms.play(evaluations.injections(terms.references), "tests")


Group = Callable[[Terms], Iterator[Finding]]
GROUPS: dict[str, tuple[str, Group]] = {
    "data": ("videos and lists", _data),
    "runs": ("kills, signals, disks, workers, numbers, W&B", _runs),
    "configs": ("wrong configurations", _configs),
    "checkpoints": ("damaged, hostile and others' files", _checkpoints),
    "processes": ("ranks and uneven data", _processes),
    "tests": ("broken off or run in another way", _tests),
    "hangs": ("workers, decoders, ranks and servers", _hangs),
}
