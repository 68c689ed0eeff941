"""The Triton kernels without a GPU: tests/ops/interpreted/checks.py in a process of its own.

Triton reads TRITON_INTERPRET when it is imported, and for good: set here, it would reach every
later test of this process, those of the compiled kernels among them.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)


def run_checks(marked: str, at_least: int) -> None:
    checks = HERE / "interpreted" / "checks.py"
    options = ["-q", "-m", marked, "-p", "no:cacheprovider", "--no-header"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(checks)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        cwd=HERE.parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    assert int(passed[1]) >= at_least, done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(("marked", "at_least"), [("not slow", 20), ("slow", 150)])
def test_under_the_interpreter(marked: str, at_least: int) -> None:
    run_checks(marked, at_least)
