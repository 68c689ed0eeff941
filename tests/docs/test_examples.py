"""The Python in the documents runs: the blocks of a page one after the other, in one namespace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import write_checkpoint
from tests.docs.pages import NAMES, ROOT, fences
from tests.videos import write_numbered

PYTHON = [page for page in NAMES if fences(page, "python")]
RUN = ["docs/library.md"]


def run_blocks(page: str, namespace: dict[str, Any]) -> None:
    """Executes the Python blocks of a page; an error names the page's own line."""
    for fence in fences(page, "python"):
        padded = "\n" * (fence.line - 1) + fence.text
        exec(compile(padded, str(ROOT / page), "exec"), namespace)


@pytest.mark.parametrize("page", RUN)
def test_the_examples_of_the_library_run(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_checkpoint(tmp_path / "best.pt")
    write_numbered(tmp_path / "clip.mp4", 24)
    monkeypatch.chdir(tmp_path)
    run_blocks(page, {})


def test_no_other_page_has_examples_that_nobody_runs() -> None:
    assert {*PYTHON} - {*RUN} == {"README.md"}  # the real network: run by the slow tests
