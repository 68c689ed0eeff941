"""How things are timed: in CPU time, in turn, so that what else the machine does falls on all."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

Contestants = Mapping[str, Callable[[], object]]


def cpu_seconds(contestants: Contestants, rounds: int) -> dict[str, float]:
    """Median CPU seconds of each contestant over `rounds`, all threads of this process together.

    Each runs once unmeasured first; a round runs each once, in turn.
    """
    for run in contestants.values():
        run()
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            start = time.process_time()
            run()
            times[name].append(time.process_time() - start)
    return {name: median(seconds) for name, seconds in times.items()}


def environment(packages: Iterable[str]) -> dict[str, Any]:
    """What a figure depends on: processor, cores, system, versions of those `packages` present."""
    versions = {}
    for package in packages:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions,
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _processor() -> str:
    """The model of the processor, as Linux names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
