"""Whole training steps for benchmarks/gpu.py: time, memory, kernels and losses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C._autograd import DeviceType

from videogn import build
from videogn.bench import on_gpu
from videogn.bench.rounds import cpu_seconds
from videogn.bench.step import Training, Variant, training
from videogn.config import Config
from videogn.model.i3d import I3DResNet

FUSED = Variant("GN fused", "gn", "bf16", "triton")
STOCK_BN = Variant("BN stock", "bn", "bf16")
EAGER = Variant("GN eager, autocast", "gn", "bf16")
VARIANTS = (
    FUSED,
    STOCK_BN,
    EAGER,
    Variant("GN fused, graphs", "gn", "bf16", "triton", "graphs"),
    Variant("BN stock, graphs", "bn", "bf16", "aten", "graphs"),
)
THEIRS = "GN, pytorchvideo's I3D"

# Kernels that do nothing but change a tensor's layout, as cuDNN and ATen name them.
CONVERSIONS = ("nchwtonhwc", "nhwctonchw", "converttensor", "transpose", "copy_kernel")
FIRST_OF_OURS, LAST_OF_OURS = "moments", "derivative"


@dataclass(frozen=True)
class Taken:
    """What a step took: milliseconds, and the most bytes of tensors (None on a CPU)."""

    ms: float
    peak: int | None


def taken(made: Training, rounds: int) -> Taken:
    """Returns what a step takes, on the device that it is made for."""
    if made.clips.is_cuda:
        ms = on_gpu.milliseconds(made.step, rounds)
        return Taken(ms, on_gpu.peak_bytes(made.step))
    return Taken(1000 * cpu_seconds({"step": made.step}, rounds)["step"], None)


def steps(
    config: Config, device: torch.device, clips: int, rounds: int, wanted: Sequence[Variant]
) -> dict[str, Taken]:
    """Returns what each variant takes, PyTorchVideo's network among them."""
    found = {}
    for variant in wanted:
        found[variant.name] = taken(training(config, variant, device, clips), rounds)
        on_gpu.release()
    found[THEIRS] = taken(pytorchvideos(config, device, clips), rounds)
    on_gpu.release()
    return found


def pytorchvideos(config: Config, device: torch.device, clips: int) -> Training:
    """Returns PyTorchVideo's I3D of ours' strides and kernels, with torch's GN under autocast."""
    # Its annotations are narrower than what it takes.
    create_resnet: Any = import_module("pytorchvideo.models.resnet").create_resnet

    made = training(config, EAGER, device, clips)
    ours, groups = made.state.model, config.model.norm.num_groups
    assert isinstance(ours, I3DResNet)
    arch = ours.arch
    model = create_resnet(
        model_depth=50,
        stem_dim_out=ours.conv1.out_channels,
        model_num_class=ours.fc.out_features,
        norm=lambda num_features, **_: nn.GroupNorm(groups, num_features),
        stem_conv_kernel_size=(arch.stem_kernel_t, 7, 7),
        stem_conv_stride=(arch.stem_stride_t, 2, 2),
        stem_pool=_stem_pool,
        stem_pool_kernel_size=(arch.pool1_t, 3, 3),
        stem_pool_stride=(arch.pool1_stride_t, 2, 2),
        stage1_pool=nn.MaxPool3d,
        stage_conv_a_kernel_size=[[(t, 1, 1) for t in stage] for stage in arch.kernels_t],
        head_pool_kernel_size=ours.window,
    )
    state = build.build_state(config, model, device)  # any network
    return replace(made, state=state, forward=model.train())


def _stem_pool(kernel_size: Any, stride: Any, **_: Any) -> nn.Module:
    """As ours, without the half kernel by which create_resnet pads."""
    return nn.MaxPool3d(kernel_size, stride)


# Layout


def conversions(kernels: Iterable[str]) -> list[str]:
    """Returns those, of a step's kernels in order, that change a layout after the stem.

    The stem's own are before the first and after the last kernel of ours.
    """
    names = list(kernels)
    inside = [i for i, name in enumerate(names) if FIRST_OF_OURS in name or LAST_OF_OURS in name]
    if not inside:
        return []
    between = names[inside[0] : inside[-1]]
    return [name for name in between if any(each in name.lower() for each in CONVERSIONS)]


def kernels_of(step: Callable[[], object]) -> list[str]:
    """Returns the names of a step's GPU kernels in the order in which they ran; on a CPU, none."""
    step()
    with torch.profiler.profile() as profile:
        step()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    events: list[Any] = list(profile.events() or ())
    on_device = [e for e in events if e.device_type == DeviceType.CUDA]
    return [e.name for e in sorted(on_device, key=lambda e: e.time_range.start)]


# Loss


def loss_curve(made: Training, steps: int, seed: int) -> Tensor:
    """Returns the losses of training on the same few clips of as many classes: float32 (steps,)."""
    losses = []
    for step in range(steps):
        torch.manual_seed(seed + step)  # of dropout: what two runs of the same network differ by
        losses.append(made.step().float())
    return torch.stack(losses).cpu()


def smooth(losses: Tensor, over: int = 20) -> Tensor:
    """Returns the means over `over` steps."""
    return F.avg_pool1d(losses[None], min(over, len(losses)), 1)[0]
