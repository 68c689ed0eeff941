"""Whether two processes started by torchrun find each other and add up numbers.

`torchrun -m videogn.doctor.processes` is what each of the two runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from videogn.doctor.finding import Finding

_LIMIT = 60.0  # seconds; two cores take about eight
_SUM = 3  # of 1 and 2


def together(limit: float = _LIMIT) -> Finding:
    """Returns whether torchrun and gloo work, as training on several processes needs them."""
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    root = str(Path(__file__).parents[2])
    try:
        done = subprocess.run(
            [sys.executable, *words, "-m", __name__],
            env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=limit,
            check=False,
        )
    except subprocess.TimeoutExpired:
        said = f"two processes did not find each other within {limit:g} s"
    else:
        if done.returncode == 0:
            return Finding("processes", "ok", "two of torchrun add up over gloo")
        lines = [line for line in done.stderr.splitlines() if "Error" in line]
        said = f"torchrun failed: {(lines or ['without saying why'])[-1].strip()[:200]}"
    advice = "name the network interface in GLOO_SOCKET_IFNAME; one process needs nothing"
    return Finding("processes", "note", said, advice)


def _add_up() -> int:
    import torch
    from torch import distributed

    distributed.init_process_group("gloo")
    number = torch.tensor([distributed.get_rank() + 1])
    distributed.all_reduce(number)
    distributed.destroy_process_group()
    return 0 if number.item() == _SUM else 1


if __name__ == "__main__":
    sys.exit(_add_up())
