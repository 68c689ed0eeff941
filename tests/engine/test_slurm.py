"""Requeueing with a `scontrol` of our own on the path."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from videogn.engine import slurm


@pytest.fixture
def scontrol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Returns a function that installs a program of that name; what it is told is in the file."""

    def install(ending: str) -> Path:
        program, told = tmp_path / "scontrol", tmp_path / "told"
        program.write_text(f'#!/bin/sh\necho "$#" "$@" >> {told}\n{ending}\n')
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
        return told

    return install


@pytest.mark.parametrize("job", ["123", "45_6"])
def test_the_job_is_requeued_by_its_number(
    job: str,
    scontrol: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = scontrol("exit 0")
    monkeypatch.setenv("SLURM_JOB_ID", job)
    with caplog.at_level(logging.INFO, logger="videogn"):
        slurm.requeue()
    assert told.read_text() == f"2 requeue {job}\n"
    assert f"job {job} is requeued" in caplog.text


@pytest.mark.parametrize("job", [None, "", "1; touch x", "1 2", "--all", "\u0661"])
def test_what_is_no_job_is_not_passed_on(
    job: str | None,
    scontrol: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    told = scontrol("exit 0")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    if job is not None:
        monkeypatch.setenv("SLURM_JOB_ID", job)
    slurm.requeue()
    assert not told.exists()
    assert [r.levelname for r in caplog.records] == ["WARNING"]


@pytest.mark.parametrize(
    ("ending", "said"),
    [
        ("echo 'Invalid job id' >&2; exit 1", "Invalid job id"),
        ("exec sleep 60", "timed out"),
        (None, "No such file"),
    ],
)
def test_a_failure_is_one_warning(
    ending: str | None,
    said: str,
    scontrol: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(slurm, "_PATIENCE", 0.5)
    monkeypatch.setenv("SLURM_JOB_ID", "123")
    told = scontrol(ending or "")
    if ending is None:
        (told.parent / "scontrol").unlink()
    slurm.requeue()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("not requeued: scontrol requeue 123: ")
    assert said in record.getMessage()
