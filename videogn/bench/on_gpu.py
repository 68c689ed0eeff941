"""What is measured of a step on a GPU: its time between two events, its memory, what fits."""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median

import torch

WARM_UP = 5  # steps: cuDNN chooses its kernels, compilers compile, graphs are recorded
MOST = 1024  # clips tried at most

Step = Callable[[], object]


def milliseconds(step: Step, rounds: int) -> float:
    """Returns the median GPU time of a step, launches included where the GPU waits for them."""
    for _ in range(WARM_UP):
        step()
    times = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        step()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return median(times)


def peak_bytes(step: Step) -> int:
    """Returns the most bytes that tensors held during a step, after a first one."""
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def largest(runs: Callable[[int], None], limit: int = MOST) -> int:
    """Returns the largest batch up to `limit` that does not run out of memory; 0 for none.

    Args:
        runs: takes a step or two with a batch of that size, or raises OutOfMemoryError.
        limit: see above.
    """
    fits, fails = 0, None
    size = 1
    while fails is None or fails - fits > 1:
        if _fits(runs, size):
            fits = size
            if size == limit:
                break
        else:
            fails = size
        size = min(2 * size, limit) if fails is None else (fits + fails) // 2
    return fits


def _fits(runs: Callable[[int], None], size: int) -> bool:
    try:
        runs(size)
    except torch.OutOfMemoryError:
        return False
    finally:
        release()
    return True


def release() -> None:
    """Gives the memory of what nothing holds any more back to the device."""
    if torch.cuda.is_available():
        gc.collect()
        torch.cuda.empty_cache()
