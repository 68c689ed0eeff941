"""A training step uses nothing that torch refuses on CUDA under deterministic algorithms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from videogn.model.i3d import create_model

# What `torch.use_deterministic_algorithms` lists as an error on CUDA, by the names of ATen; with
# the 3-D max pool, which older releases refuse. NLLLoss is refused for images alone (nll_loss2d).
REFUSED = (
    *("avg_pool3d_backward", "_adaptive_avg_pool2d_backward", "_adaptive_avg_pool3d_backward"),
    *("adaptive_max_pool2d_backward", "adaptive_max_pool3d_backward"),
    *("fractional_max_pool2d_backward", "fractional_max_pool3d_backward"),
    *("max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d"),
    *("upsample_linear1d_backward", "upsample_bilinear2d_backward"),
    *("upsample_bicubic2d_backward", "upsample_trilinear3d_backward"),
    *("reflection_pad1d_backward", "reflection_pad2d_backward", "reflection_pad3d_backward"),
    *("nll_loss2d_forward", "nll_loss2d_backward", "_ctc_loss_backward"),
    *("_embedding_bag_backward", "put_", "put", "histc", "bincount", "median", "nanmedian"),
    *("grid_sampler_2d_backward", "grid_sampler_3d_backward"),
    *("scatter_reduce", "scatter_reduce_", "kthvalue", "resize_"),
)
# What becomes deterministic on CUDA at a price, or fails with some of its arguments.
UNUSED = ("index_put_", "index_put", "_index_put_impl_", "scatter_add", "scatter_add_", "cumsum")


class Recorded(TorchDispatchMode):
    """Notes the name of every operation below autograd, backward ones too."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def operations(model: nn.Module, clips: Tensor) -> set[str]:
    """Returns what a training step calls: forward, loss, backward, clipping and SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    with Recorded() as recorded:
        F.cross_entropy(model(clips), torch.zeros(len(clips), dtype=torch.int64)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return recorded.names


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize("norm", ["gn", "bn", "brn"])
def test_no_operation_of_a_training_step_is_refused(norm: Any, layout: torch.memory_format) -> None:
    model = create_model(
        "i3d_r50", norm=norm, num_frames=16, crop_size=64, num_classes=3, width=32, dropout=0.5
    )
    model = model.train().to(memory_format=layout)
    names = operations(model, torch.randn(2, 3, 16, 64, 64).to(memory_format=layout))
    assert {"convolution_backward", "max_pool2d_with_indices_backward"} <= names
    assert not names & {*REFUSED, *UNUSED}


def test_the_record_would_show_a_refused_operation() -> None:
    layers = nn.Conv3d(3, 4, 1), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(2), nn.Flatten()
    names = operations(nn.Sequential(*layers), torch.randn(2, 3, 4, 8, 8))
    refused = {"max_pool3d_with_indices_backward", "_adaptive_avg_pool3d_backward"}
    assert names & set(REFUSED) == refused


def test_the_list_is_that_of_the_installed_torch() -> None:
    """Every name is an operation of ATen: a renamed one would be passed over in silence."""
    assert [name for name in (*REFUSED, *UNUSED) if not hasattr(torch.ops.aten, name)] == []
