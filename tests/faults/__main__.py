"""`python -m tests.faults data` injects every fault and prints how many were survived."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults.injection import inject, table
from tests.faults.media import Originals, faults


def main() -> int:
    """Returns 1 if a fault was lost."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("group", choices=["data"], help="the faults to inject")
    parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        originals = Originals(Path(folder) / "originals")
        outcomes = inject(list(faults(originals)), Path(folder) / "injected")
    lost = [outcome for outcome in outcomes if outcome.problem]
    lines = [f"lost: {o.fault.group}: {o.fault.name!r}: {o.problem}" for o in lost]
    sys.stdout.write("\n".join([table(outcomes), *lines, ""]))
    return bool(lost)


if __name__ == "__main__":
    raise SystemExit(main())
