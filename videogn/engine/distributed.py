"""The ranks of one run under torchrun, or the single process without it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import PrefixStore, Store  # pyright: ignore[reportPrivateImportUsage]
from torch.distributed.rendezvous import rendezvous

from videogn.errors import VideognError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """Who this process is among those of the run.

    Attributes:
        rank: its number, from 0.
        world: how many there are.
        local_rank: its number on this machine.
        store: what all of them can read and write beside their work, empty at the start; None for a
            single process.
    """

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    store: Store | None = field(default=None, compare=False, repr=False)

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0


# Seconds that ranks have to find each other on a busy machine, however short a step may be. Shorter
# limits are the watchdog's, which knows what a rank is at.
MEETING = 60.0

# Of the group that was joined; a process joins one in its life.
_joined = Ranks()


def join(device: torch.device, timeout: float = 600.0) -> Ranks:
    """Returns this process's place, having joined the others if torchrun started it.

    Tensors of a GPU travel by NCCL, all else by gloo: few bytes that decide something, on the CPU,
    need not wait for the GPU then. The rendezvous comes from torchrun's environment.

    Args:
        device: of this process.
        timeout: seconds after which waiting for another rank is an error; at least `MEETING`.
    """
    global _joined  # noqa: PLW0603  as torch's own group is the process's
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        return Ranks()
    if not dist.is_initialized():
        cuda, limit = device.type == "cuda", timedelta(seconds=max(timeout, MEETING))
        if cuda:
            torch.cuda.set_device(device)
        store, rank, world = next(iter(rendezvous("env://", timeout=limit)))
        # torchrun keeps one store over its restarts, with the addresses of those that have ended.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = PrefixStore(f"attempt_{attempt}", store)
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cuda else "gloo",
            store=store,
            rank=rank,
            world_size=world,
            timeout=limit,
        )
        local_rank = int(os.environ.get("LOCAL_RANK", "0"))
        _joined = Ranks(rank, world, local_rank, PrefixStore(from_main(uuid4().hex), store))
    return _joined


def world_size() -> int:
    """Returns the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def leave() -> None:
    """Leaves the group, if one was joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


def all_sum(tensor: Tensor) -> Tensor:
    """Returns the sum over ranks, on the device it came from; unchanged for a single process."""
    if not dist.is_initialized():
        return tensor
    # What is neither a GPU's of NCCL nor the CPU's, as of MPS, travels as the latter.
    total = tensor.to(tensor.device if tensor.is_cuda else "cpu", copy=True)
    dist.all_reduce(total)
    return total.to(tensor.device)


def any_rank(flag: bool) -> bool:
    """Returns whether `flag` is true on any rank, the same answer on all."""
    return bool(all_sum(torch.tensor(int(flag))).item())


def from_main(value: T) -> T:
    """Returns rank 0's `value` on every rank."""
    values: list[Any] = [value]
    if dist.is_initialized():
        dist.broadcast_object_list(values, src=0)
    return values[0]


def on_main(action: Callable[[], T]) -> T:
    """Returns on every rank what `action` returns on rank 0, which alone calls it.

    Raises:
        VideognError: on every rank, if `action` raises it; none is left waiting for the others.
        OSError: the same.
    """
    if not dist.is_initialized():
        return action()
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [action()]
        except (VideognError, OSError) as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], Exception):
        raise outcome[0]
    return outcome[0]


def gather(value: T) -> list[T]:
    """Returns every rank's `value`, in the order of ranks, on every rank."""
    if not dist.is_initialized():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits for every rank."""
    any_rank(False)
