"""`python -m tests.faults [GROUP ...]` injects faults and prints how many were survived."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before torch, here and in every process of a run
os.environ["WANDB_MODE"] = "disabled"

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tests.faults.groups import GROUPS, Terms
from tests.faults.table import Finding, as_markdown, as_text


def main(words: Sequence[str] | None = None) -> int:
    """Returns 1 if a fault was lost."""
    words = list(sys.argv[1:] if words is None else words)
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    groups = ", ".join(f"{name} ({what})" for name, (what, _) in GROUPS.items())
    # No choices=: argparse would then refuse to be given none.
    parser.add_argument("group", nargs="*", help=f"faults of what, all by default: {groups}")
    parser.add_argument("--quick", action="store_true", help="a few of every row")
    parser.add_argument("--only", default="", help="faults whose row or name holds these words")
    parser.add_argument("--jobs", type=int, default=2, help="runs at the same time")
    parser.add_argument("--out", type=Path, help="a file for the table as markdown")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for every fault")
    arguments = parser.parse_args(words)
    unknown = [name for name in arguments.group if name not in GROUPS]
    if unknown:
        parser.error(f"there is no group {unknown[0]!r}; there are {', '.join(GROUPS)}")
    torch.set_num_threads(1)
    begin, findings = time.monotonic(), []
    # Not a TemporaryDirectory: each process of a run would remove it when it ends.
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    terms = Terms(folder, arguments.quick, arguments.only, arguments.jobs)
    try:
        for name in arguments.group or GROUPS:
            for finding in GROUPS[name][1](terms):
                findings.append(finding)
                if finding.problem or arguments.verbose:
                    _say(finding)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    sys.stdout.write(as_text(findings) + "\n")
    if arguments.out:
        text = as_markdown(findings, time.monotonic() - begin, words)
        arguments.out.write_text(text, encoding="utf-8")
    return any(finding.problem for finding in findings)


def _say(finding: Finding) -> None:
    what = f"{finding.row}: {finding.name}"
    sys.stdout.write(f"LOST: {what}: {finding.problem}\n" if finding.problem else f"ok: {what}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(main())
