"""What came of the faults, counted by the rows of the table that the README shows."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from itertools import groupby
from pathlib import Path

_LIBRARIES = ("torch", "av", "numpy", "pyyaml", "wandb")


@dataclass(frozen=True)
class Finding:
    """What came of one injection.

    Attributes:
        row: of the table, such as "R2 SIGKILL in a write".
        name: of the fault.
        problem: what came otherwise than it must; empty when the fault was survived.
        count: faults that were injected, as several kills into one run.
    """

    row: str
    name: str
    problem: str
    count: int = 1


@dataclass(frozen=True)
class Counts:
    """A line of the table."""

    row: str
    injected: int
    lost: int

    @property
    def survived(self) -> int:
        """Those that are not lost."""
        return self.injected - self.lost


def counts(findings: Sequence[Finding]) -> Iterator[Counts]:
    """One line a row, letters in the order in which they came first, and one for all together."""
    letters = "".join(finding.row[0] for finding in findings)

    def place(finding: Finding) -> tuple[int, int, str]:
        number = re.match(r".(\d*)", finding.row)
        assert number is not None
        return letters.index(finding.row[0]), int(number[1] or 0), finding.row

    for row, group in groupby(sorted(findings, key=place), lambda finding: finding.row):
        yield _line(row, list(group))
    yield _line("all", findings)


def _line(row: str, findings: Sequence[Finding]) -> Counts:
    lost = [finding for finding in findings if finding.problem]
    return Counts(row, sum(f.count for f in findings), sum(f.count for f in lost))


def as_text(findings: Sequence[Finding]) -> str:
    """The table for a terminal."""
    lines = [f"{'fault':44} {'injected':>8} {'survived':>8} {'lost':>6}"]
    lines += [f"{x.row:44} {x.injected:8} {x.survived:8} {x.lost:6}" for x in counts(findings)]
    return "\n".join(lines)


def as_markdown(findings: Sequence[Finding], seconds: float, words: Sequence[str]) -> str:
    """The table for the README, with where, when and by which `words` of the program it came."""
    versions = ", ".join(f"{name} {_version(name)}" for name in _LIBRARIES)
    lines = [
        "# Faults injected into runs",
        "",
        f"`{' '.join(['python -m tests.faults', *words])}`",
        "",
        f"{time.strftime('%Y-%m-%d')}, {_processor()}, {platform.system()}, Python "
        f"{platform.python_version()}, {versions}; {seconds:.0f} s.",
        "",
        "| Fault | injected | survived | lost |",
        "|---|---:|---:|---:|",
        *(f"| {x.row} | {x.injected} | {x.survived} | {x.lost} |" for x in counts(findings)),
        "",
        *(f"- lost: {f.row}: {f.name}: {f.problem}" for f in findings if f.problem),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def _processor() -> str:
    """The processor's name and the number of its cores that there are."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            name = next(line.partition(": ")[2].strip() for line in file if "model name" in line)
    except (OSError, StopIteration):
        pass
    return f"{cores} cores of {name}"
