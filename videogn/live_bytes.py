"""Bytes of the tensors alive, counted while operators make them: real tensors, or fake ones."""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """Counts, within its context, the bytes of all storages that an operator made.

    A storage counts from the operator that makes it until nothing holds it: a view adds nothing,
    and what autograd keeps for backward counts, recomputation included. What was there before does
    not, nor what an operator needs inside (cuDNN's workspace).

    Attributes:
        now: bytes alive.
        peak: the most there were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the operator and looks at what it made."""
        given = {_key(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = func(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor) and _key(x) not in given | self._known:
                self._add(x)
        return result

    def _add(self, x: Tensor) -> None:
        storage, key = x.untyped_storage(), _key(x)
        size = storage.nbytes()
        self._known.add(key)
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def _key(x: Tensor) -> int:
    """What all views of a storage share while it lives."""
    return x.untyped_storage()._cdata
