"""`python -m tests.faults data` injects every fault and prints how many were survived."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.injection import inject, table
from tests.faults.lists import list_faults, problem_of
from tests.faults.media import Originals, faults


def main() -> int:
    """Returns 1 if a fault was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("group", choices=["data"], help="the faults to inject")
    parser.parse_args()
    found: list[tuple[str, str, str]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        media = list(faults(Originals(folder / "originals")))
        outcomes = inject(media, folder / "injected")
        found += [(o.fault.group, o.fault.name, o.problem) for o in outcomes]
        for number, fault in enumerate(list_faults()):
            problem = problem_of(fault, folder / f"list {number}")
            found.append((fault.group, fault.name, problem))
    lines = [f"lost: {group}: {name!r}: {problem}" for group, name, problem in found if problem]
    sys.stdout.write("\n".join([table([(group, why) for group, _, why in found]), *lines, ""]))
    return bool(lines)


if __name__ == "__main__":
    raise SystemExit(main())
