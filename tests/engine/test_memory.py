"""The end of memory is one sentence, whoever noticed it; every other error stays as it was."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch

from videogn.engine.memory import explained, is_exhaustion, peak_mb
from videogn.errors import MemoryExhaustedError

CPU = torch.device("cpu")


def too_much_for_torch() -> None:
    torch.empty(2**62, dtype=torch.uint8)


def too_much_for_numpy() -> None:
    np.empty(2**62, dtype=np.uint8)


def cuda_is_full() -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def cublas_is_full() -> None:
    raise RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`")


@pytest.mark.parametrize(
    "exhaust", [too_much_for_torch, too_much_for_numpy, cuda_is_full, cublas_is_full]
)
def test_exhausted_memory_names_the_place_the_peak_and_what_to_change(
    exhaust: Callable[[], None],
) -> None:
    advice = ["a=1 b=2", "c=block", "d=bf16"]
    words = (
        r"out of memory in step 7 on cpu, after a peak of \d+\.\d+ GB; try a=1 b=2, or c=block, "
    )
    raises = pytest.raises(MemoryExhaustedError, match=words + "or d=bf16$")
    with raises as raised, explained(lambda: "step 7", CPU, lambda: advice):
        exhaust()
    assert raised.value.exit_code == 5


def test_another_error_stays_what_it_is_and_advice_is_not_asked_for() -> None:
    with (
        pytest.raises(RuntimeError, match="inconsistent tensor size") as raised,
        explained(str, CPU, lambda: pytest.fail("asked for")),
    ):
        torch.dot(torch.zeros(2), torch.zeros(3))
    assert not is_exhaustion(raised.value)


def test_the_peak_is_that_of_the_process_and_grows() -> None:
    program = (
        "import torch; from videogn.engine.memory import peak_mb; cpu = torch.device('cpu')\n"
        "before = peak_mb(cpu); torch.ones(100_000_000); print(peak_mb(cpu) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    # 400 MB, less what importing torch had used and given back
    assert 250 < float(done.stdout) < 450
    assert peak_mb(CPU) > 50
