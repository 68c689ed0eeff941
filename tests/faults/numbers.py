"""Rows R7 and R8: numbers that are none, and memory that is not there, on one rank or on both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.faults.jobs import Sabotage, start
from tests.faults.plan import Injection
from tests.faults.references import BN, References, expect_same, require_good
from tests.faults.sabotage import at_call, on_rank, raises
from tests.faults.waiting import Lost, Waiting, expect
from videogn import build

R7, R8 = "R7 NaN or inf: loss, gradient, input, weights", "R8 out of memory"
_STEP = 8  # two after a checkpoint, one before the next


def injections(references: References) -> Iterator[Injection]:
    """Every fault of the rows."""
    for value in (math.nan, math.inf):
        for what, sabotage in _bad_numbers(value).items():
            for world in (1, 2):
                for norm in ((), (BN,)) if what == "loss" else ((),):
                    play = partial(_ends, references, sabotage, world, norm, 4, "step 8")
                    quick = world == 2 and what == "gradient" and math.isnan(value)
                    where = f"{world} rank(s)" + (", bn" if norm else "")
                    yield Injection(R7, f"{value} in {what}, {where}", play, 1, quick)
    cuda = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")
    allocator = RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 99999999999 bytes. Error code 12 (Cannot allocate memory)"
    )
    for error in (cuda, allocator, MemoryError()):
        for world in (1, 2):
            sabotage = at_call(F, "cross_entropy", _STEP, raises(error))
            play = partial(_ends, references, sabotage, world, (), 5, "optim.clips_per_gpu")
            quick = error is cuda and world == 1
            yield Injection(R8, f"{type(error).__name__}, {world} rank(s)", play, 1, quick)


def _bad_numbers(value: float) -> dict[str, Sabotage]:
    """In what -> how, in step `_STEP`."""
    return {
        "loss": at_call(F, "cross_entropy", _STEP, lambda plain, *a, **k: plain(*a, **k) * value),
        "gradient": at_call(
            F, "cross_entropy", _STEP, lambda plain, *a, **k: _Spoilt.apply(plain(*a, **k), value)
        ),
        "input": _spoil_input(value),
        "weights": at_call(
            torch.optim.SGD, "step", _STEP - 1, partial(_spoil_weights, value=value)
        ),
    }


class _Spoilt(torch.autograd.Function):
    """The number itself, whose gradient is none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: float) -> Tensor:
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * ctx.value, None


def _spoil_weights(plain: Callable[..., Any], optimizer: Any, *args: Any, value: float) -> Any:
    result = plain(optimizer, *args)
    with torch.no_grad():
        optimizer.param_groups[0]["params"][0].view(-1)[0] = value
    return result


def _spoil_input(value: float) -> Sabotage:
    def spoil(rank: int) -> None:
        plain = build.build_to_input

        def built(*args: Any) -> Callable[[Tensor], Tensor]:
            to_input, calls = plain(*args), 0

            def spoilt(clips: Tensor) -> Tensor:
                nonlocal calls
                calls += 1
                result = to_input(clips)
                return result * value if calls == _STEP else result

            return spoilt

        build.build_to_input = built

    return spoil


def _ends(
    references: References,
    sabotage: Sabotage,
    world: int,
    norm: tuple[str, ...],
    code: int,
    says: str,
    folder: Path,
) -> Waiting[None]:
    """All ranks end with `code`; the checkpoint before is good, and it goes on from there."""
    unbroken = yield from references.unbroken(*norm, world=world)
    words = references.words(*norm)
    # With two ranks only the second meets it.
    only = on_rank(1, sabotage) if world > 1 else sabotage
    job = start(words, folder, world=world, sabotage=only)
    yield from expect(job, code, within=60, says=says)
    require_good(folder / "run", 6)
    if (folder / "run" / "test.json").exists():
        raise Lost("was tested all the same")
    yield from expect_same(start(words, folder, world=world), folder, unbroken)
