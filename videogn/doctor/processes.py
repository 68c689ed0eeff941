"""Whether two processes started as torchrun does find each other and add up numbers.

`python -m videogn.doctor.processes` starts the two.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from videogn.doctor.finding import Finding

_LIMIT = 60.0  # seconds; an idle machine takes three
_SUM = 3  # of 1 and 2
_REASON = re.compile(r"\w*Error: .+")


def together(limit: float = _LIMIT) -> Finding:
    """Returns whether torchrun's launcher and gloo work, as training on several processes needs."""
    with subprocess.Popen(
        [sys.executable, "-m", __name__],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as launcher:
        try:
            _, complaint = launcher.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(launcher.pid, signal.SIGKILL)  # the two it started as well
            said = f"two processes did not find each other within {limit:g} s"
        else:
            if launcher.returncode == 0:
                return Finding("processes", "ok", "two of torchrun add up over gloo")
            reason = _REASON.search(complaint)
            said = f"torchrun failed: {reason[0][:200] if reason else 'without saying why'}"
    advice = "name the network interface in GLOO_SOCKET_IFNAME; one process needs nothing"
    return Finding("processes", "note", said, advice)


def _launch() -> int:
    """Returns 0 if both processes have the right sum, 1 otherwise."""
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=2,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",  # as `torchrun --standalone`
        max_restarts=0,
        # Forked, the two need not import torch again; only Linux does that without harm.
        start_method="fork" if sys.platform == "linux" else "spawn",
    )
    sums = elastic_launch(config, _add_up)()
    return 0 if list(sums.values()) == [_SUM, _SUM] else 1


def _add_up() -> int:
    """Returns the sum of the ranks, counted from 1, of all processes."""
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    number = torch.tensor([distributed.get_rank() + 1])
    distributed.all_reduce(number)
    distributed.destroy_process_group()
    return int(number.item())


if __name__ == "__main__":
    sys.exit(_launch())
