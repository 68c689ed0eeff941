"""Memory: the most that was used, and one sentence for the day that there is no more."""

from __future__ import annotations

import re
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from videogn.errors import MemoryExhaustedError

# What a RuntimeError says that is no torch.OutOfMemoryError: torch's CPU allocator, the libraries
# of CUDA, and MPS.
_EXHAUSTED = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|ALLOC_FAILED|out of memory", re.I
)


def peak_mb(device: torch.device) -> float:
    """Returns the most memory used so far, MB: on a GPU by tensors, else by this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    status = Path("/proc/self/status")
    if status.exists():  # Linux, whose ru_maxrss begins with what the parent had used
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, bytes
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def is_exhaustion(error: BaseException) -> bool:
    """Returns whether an error says that memory could not be had, of a GPU or of the machine."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _EXHAUSTED.search(str(error)) is not None


@contextmanager
def explained(
    doing: Callable[[], str], device: torch.device, advice: Callable[[], Sequence[str]]
) -> Iterator[None]:
    """Turns the end of memory into one sentence; nothing is skipped or tried again.

    Args:
        doing: says what was being done, such as "step 7".
        device: where.
        advice: tells overrides that need less memory, best first.

    Raises:
        MemoryExhaustedError: memory was exhausted within the context.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_exhaustion(error):
            raise
        of = ""
        if device.type == "cuda":
            of = f" of {torch.cuda.get_device_properties(device).total_memory / 1e9:.1f}"
        raise MemoryExhaustedError(
            f"out of memory in {doing()} on {device}, after a peak of {peak_mb(device) / 1e3:.2f}"
            f"{of} GB; try {', or '.join(advice())}"
        ) from error
