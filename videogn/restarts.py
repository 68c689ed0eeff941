"""Automatic restarts: torchrun and Slurm give the same command again within the same job."""

from __future__ import annotations

import os


def job() -> str | None:
    """Returns what names the job of this process, the same after a restart; None without one."""
    if "SLURM_JOB_ID" in os.environ:
        return f"slurm {os.environ['SLURM_JOB_ID']}"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        # On a single machine torchrun names every run "none"; its process outlives a restart.
        return f"torchrun {os.environ['TORCHELASTIC_RUN_ID']} {os.getppid()}"
    return None


def is_restart() -> bool:
    """Returns whether the job has started this command before."""
    counts = ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT")
    return any(os.environ.get(name, "0") != "0" for name in counts)
