"""What every test shares: one thread, which is 13 times faster than two for thin networks."""

from __future__ import annotations

import gc
import os
import sys
import types
from collections.abc import Iterator

os.environ["OMP_NUM_THREADS"] = "1"  # also for the processes that tests start
os.environ["WANDB_MODE"] = "disabled"

import pytest
import torch

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Spares the garbage collector all that was imported; processes forked share it, too."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Lets the interpreter clear all that when it ends."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _bare_main() -> Iterator[None]:
    """A spawned process imports the main module first, which would be pytest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "__main__", types.ModuleType("__main__"))
        yield


@pytest.fixture(autouse=True)
def _fixed_seed() -> None:
    torch.manual_seed(0)
