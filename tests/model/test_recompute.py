"""What is computed again in the backward pass: the same bits, and how much less is kept."""

from __future__ import annotations

import importlib.util
from collections import Counter
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from videogn.model.i3d import I3DResNet, create_model
from videogn.model.norm import norm_factory
from videogn.model.recompute import is_recomputing

needs_triton = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
KINDS = ("gn", "bn", "ln", "in", "brn", "frozen_bn", "sync_bn")


def thin(kind: str, recompute: str, **norm: Any) -> I3DResNet:
    torch.manual_seed(0)
    factory = norm_factory(kind, num_groups=4, brn_warmup_steps=1, **norm)  # type: ignore[arg-type]
    model = create_model("i3d_r14", norm=factory, num_classes=3, num_frames=4, crop_size=32,
                         width=8, recompute=recompute, zero_init_residual=False)  # fmt: skip
    return model.train()


@cache
def trained(kind: str, recompute: str, sub_batch: int | None) -> dict[str, Tensor]:
    """All gradients and buffers after steps, of which the later see what the first left behind."""
    model = thin(kind, recompute, sub_batch=sub_batch)
    random = torch.Generator().manual_seed(1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for step in range(3):
        torch.manual_seed(step)  # of dropout
        optimizer.zero_grad()
        logits = model(torch.randn(2, 3, 4, 32, 32, generator=random))
        torch.nn.functional.cross_entropy(logits, torch.tensor([0, 2])).backward()
        optimizer.step()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return found | dict(model.state_dict())


@pytest.mark.parametrize("mode", ["norm", "block"])
@pytest.mark.parametrize(("kind", "sub_batch"), [*((kind, None) for kind in KINDS), ("bn", 1)])
def test_recomputation_changes_no_bit(kind: str, sub_batch: int | None, mode: str) -> None:
    expected = trained(kind, "none", sub_batch)
    have = trained(kind, mode, sub_batch)
    assert have.keys() == expected.keys()
    assert [name for name in have if not torch.equal(have[name], expected[name])] == []
    counters = [value for name, value in have.items() if name.endswith("num_batches_tracked")]
    assert all(value == 3 for value in counters)
    assert not is_recomputing()


class Outputs(TorchDispatchMode):
    """Notes every operator, and every storage that it makes without keeping it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.calls[func.name()] += 1
        for each in tree_leaves(result):
            if isinstance(each, Tensor):
                storage = each.untyped_storage()
                reference = StorageWeakRef(storage)
                self.made[reference.cdata] = reference, storage.nbytes()
        return result

    def alive(self) -> int:
        """Bytes of those that something still holds."""
        return sum(size for reference, size in self.made.values() if not reference.expired())


NORMS = {
    ("aten", "gn"): "aten::native_group_norm",
    ("aten", "bn"): "aten::native_batch_norm",
    ("triton", "gn"): "videogn::norm_act",
    ("triton", "bn"): "videogn::norm_act",
}
Step = tuple[int, Counter[str], Counter[str]]


def step_of_i3d_r50(kind: str, recompute: str, impl: str = "aten") -> Step:
    """Bytes that the forward pass leaves for backward, and the operators that each ran.

    Shapes alone are computed.
    """
    with torch.device("meta"):
        factory = norm_factory(kind, impl=impl)  # type: ignore[arg-type]
        model = create_model("i3d_r50", norm=factory, num_frames=32, recompute=recompute).train()
        clips = torch.empty(2, 3, 32, 224, 224)
        clips = clips.contiguous(memory_format=torch.channels_last_3d)
    with Outputs() as outputs:
        logits = model(clips)
    kept, forward = outputs.alive(), outputs.calls
    with Outputs() as outputs:
        logits.sum().backward()
    return kept, forward, outputs.calls


@pytest.mark.parametrize("impl", ["aten", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("kind", ["gn", "bn"])
@pytest.mark.filterwarnings("ignore:.*not channels-last")  # a convolution's shape has no layout
def test_what_recomputation_saves_of_i3d_r50(kind: str, impl: str) -> None:
    kept, forward, backward = step_of_i3d_r50(kind, "none", impl)
    assert backward["aten::convolution"] == 0
    in_blocks = forward["aten::convolution"] - 1  # the stem's output is kept
    for mode, most, convolutions in (("norm", 0.85, 0), ("block", 0.50, in_blocks)):
        less, _, second = step_of_i3d_r50(kind, mode, impl)
        assert less <= most * kept
        assert second["aten::convolution"] == convolutions
        norm = NORMS[impl, kind]
        assert second[norm] == forward[norm] == 53  # each is done again once, kernels of ours too


def test_nothing_is_recomputed_where_nothing_is_kept() -> None:
    clips = torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))
    plain, again = thin("gn", "none").eval(), thin("gn", "block").eval()
    with torch.no_grad():
        assert torch.equal(plain(clips), again(clips))


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown recompute 'all'; known: none, norm, block"):
        thin("gn", "all")
