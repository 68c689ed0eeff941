"""Whether this machine can train: each part tried, each fault with what to do about it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from videogn.doctor.finding import Finding

__all__ = ["Finding", "examine", "table"]

_SIGNS = {"ok": "ok", "note": "note", "bad": "BAD"}


def examine(place: Path) -> Iterator[Finding]:
    """Yields what is found on this machine; runs would write to `place`. Takes some seconds."""
    from videogn.doctor import accounts, machine, processes, video

    yield from machine.versions()
    yield from machine.devices()
    with tempfile.TemporaryDirectory() as name:
        yield from video.codecs()
        yield from video.decoders(Path(name))
    yield processes.together()
    yield machine.disk(place)
    yield machine.shared_memory()
    yield machine.open_files()
    yield accounts.wandb()
    yield accounts.weights()


def table(findings: Sequence[Finding]) -> str:
    """Returns one line for each finding, its advice below it."""
    width = max(len(finding.name) for finding in findings)
    lines = []
    for finding in findings:
        lines.append(f"{_SIGNS[finding.state]:4}  {finding.name:{width}}  {finding.said}")
        if finding.advice:
            lines.append(f"{'':4}  {'':{width}}  -> {finding.advice}")
    return "\n".join(lines)
