"""Slurm: a job that was told to end before its work was done is put back into the queue."""

from __future__ import annotations

import logging
import os
import re
import signal
import subprocess

# With SIGINT a person ends the run, and means it.
REQUEUED = (signal.SIGUSR1, signal.SIGTERM)
_JOB = re.compile(r"[0-9]+(_[0-9]+)?")  # the second number is of a job array
_PATIENCE = 5.0  # seconds: a job that was told to end has little time left

log = logging.getLogger(__name__)


def requeue() -> None:
    """Puts this process's Slurm job back into the queue; a failure is one warning."""
    job = os.environ.get("SLURM_JOB_ID", "")
    if not _JOB.fullmatch(job):
        log.warning("not requeued: SLURM_JOB_ID=%r is no Slurm job", job)
        return
    command = ["scontrol", "requeue", job]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("not requeued: %s: %s", " ".join(command), error)
        return
    if done.returncode:
        log.warning("not requeued: %s: %s", " ".join(command), done.stderr.strip())
        return
    log.info("job %s is requeued; it goes on from the checkpoint", job)
