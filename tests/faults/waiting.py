"""Waiting for what a run does, beside others that wait too, and no longer than it may take."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import TypeVar

from tests.faults.jobs import Job

T = TypeVar("T")
# What an injection is: it yields while it waits, so that others may go on, and returns in the end.
Waiting = Generator[None, None, T]

LIMIT = 180.0  # seconds after which a run counts as hung; one takes 1 to 5 on an idle core


class Lost(Exception):  # noqa: N818  what it says is no error of the program that raises it
    """A fault was not survived; the message says what came instead."""


def until(
    condition: Callable[[], bool], job: Job, what: str, limit: float = LIMIT
) -> Waiting[None]:
    """Waits for `condition`.

    Raises:
        Lost: the run ended before, or it took longer than `limit` seconds.
    """
    deadline = time.monotonic() + limit
    while not condition():
        if job.has_ended and not condition():
            raise Lost(f"ended with {job.codes} before {what}: {job.tail}")
        if time.monotonic() > deadline:
            job.kill()
            raise Lost(f"{what} did not come within {limit:g} s")
        yield


def ended(job: Job, within: float = LIMIT) -> Waiting[list[int | None]]:
    """Waits for the end of all ranks; returns their exit codes.

    Raises:
        Lost: some still ran after `within` seconds.
    """
    deadline = time.monotonic() + within
    while not job.has_ended:
        if time.monotonic() > deadline:
            codes = job.codes
            job.kill()
            raise Lost(f"still runs after {within:g} s (exit codes {codes}): {job.tail}")
        yield
    job.dismiss()
    return job.codes


def expect(job: Job, *codes: int, within: float = LIMIT, says: str = "") -> Waiting[None]:
    """Waits for the end of the run, which must be one of `codes` on all ranks, in one sentence.

    Raises:
        Lost: another exit code, a traceback, or an error that does not say `says`.
    """
    found = yield from ended(job, within)
    if not set(found) <= set(codes):
        raise Lost(f"ended with {found} instead of {codes}: {job.tail}")
    if "Traceback (most recent call last)" in job.output:
        raise Lost(f"a traceback: {job.tail}")
    if says not in job.output:
        raise Lost(f"does not say {says!r}: {job.tail}")


def pause(seconds: float) -> Waiting[None]:
    """Waits."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
