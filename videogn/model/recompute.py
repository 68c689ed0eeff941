"""Activations computed again in the backward pass instead of kept: memory for time.

A recomputed layer must return what it returned the first time and change nothing: layers with
running statistics ask `is_recomputing`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

Recompute = Literal["none", "norm", "block"]
RECOMPUTE: tuple[str, ...] = get_args(Recompute)

# What the mode "norm" keeps. All else of a block (norm, addition, ReLU, pool) is passed over
# memory, and costs little to do again.
_KEPT = (torch.ops.aten.convolution.default,)
_here = threading.local()  # autograd runs the backward pass of a GPU in a thread of its own


def is_recomputing() -> bool:
    """Returns whether this call is a second one, of the backward pass."""
    return getattr(_here, "recomputing", False)


def recomputed(part: Callable[[Tensor], Tensor], x: Tensor, mode: Recompute) -> Tensor:
    """Returns `part(x)`, with less of what lies between kept for backward.

    Args:
        part: of a network, without randomness.
        x: its input, which is kept.
        mode: "none": everything is kept; "norm": the outputs of convolutions are; "block": nothing.
    """
    if mode == "none" or not torch.is_grad_enabled():
        return part(x)
    contexts = _nothing_kept if mode == "block" else _convolutions_kept
    result = checkpoint(part, x, use_reentrant=False, preserve_rng_state=False, context_fn=contexts)
    assert isinstance(result, Tensor)
    return result


@contextmanager
def _second_time() -> Iterator[None]:
    before = is_recomputing()
    _here.recomputing = True
    try:
        yield
    finally:
        _here.recomputing = before


def _nothing_kept() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _second_time()


def _convolutions_kept() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    first, second = create_selective_checkpoint_contexts(_policy)
    return first, _both(second)


@contextmanager
def _both(context: AbstractContextManager[Any]) -> Iterator[None]:
    with ExitStack() as stack:
        stack.enter_context(_second_time())
        stack.enter_context(context)
        yield


def _policy(_: Any, operator: Any, *__: Any, **___: Any) -> CheckpointPolicy:
    kept = operator in _KEPT
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
