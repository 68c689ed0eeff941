"""The memory of a training step, predicted from shapes alone, before anything is allocated.

The step runs on tensors without values, and the bytes alive are counted operator by operator. What
no operator hands on is not in it: CUDA's own context, the workspaces of cuDNN, and what the
allocator cannot use; for these a part of the device is left free (`USABLE`, a guess, since no GPU
has confirmed it). `model.compile` keeps no more, and is predicted as if it were not on.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

from videogn import build
from videogn.config import Config
from videogn.engine.train import AMP_DTYPES
from videogn.errors import ConfigError
from videogn.live_bytes import LiveBytes
from videogn.model.i3d import I3DResNet

USABLE = 0.9  # of a device's memory
_CLASSES = 400  # Kinetics', where the config leaves it to the data: 3 MB more or less


@dataclass(frozen=True)
class Footprint:
    """Bytes of one training step.

    Attributes:
        state: weights and buffers, momentum, moving averages: there all the time.
        kept: what the forward pass leaves for the backward pass, the input clips with it.
        working: the most alive at once besides `state`: what is kept, gradients, temporaries.
    """

    state: int
    kept: int
    working: int

    @property
    def total(self) -> int:
        """What a device must have, besides what is said at the top of this file."""
        return self.state + self.working


def predict(
    config: Config, *, device: str = "cuda", batch: int | None = None, frames: int | None = None
) -> Footprint:
    """Returns the memory of a training step of an experiment, per process.

    Args:
        config: of the experiment.
        device: "cuda" (its autocast rule and kernels, without one being there) or "cpu".
        batch: clips, instead of `optim.clips_per_gpu`.
        frames: of a clip, instead of `data.num_frames`.

    Raises:
        ConfigError: the clips are too small or too few for the network.
    """
    clips = batch or config.optim.clips_per_gpu
    config = replace(config, data=replace(config.data, num_frames=frames or config.data.num_frames))
    with _shapes_alone(device) as place:
        model = _network(config, place)
        try:
            live = _run(config, model, clips, place)
        except ValueError as error:  # as of BN over a single value
            raise ConfigError(f"a step of {clips} clip(s) cannot be taken: {error}") from error
    return Footprint(_state_bytes(config, model), *live)


def largest_batch(
    config: Config, budget: float, *, device: str = "cuda", frames: int | None = None
) -> int:
    """Returns the most clips per step whose prediction is at most `budget` bytes; 0 for none.

    Bytes grow by the same with every clip once activations outweigh the gradients, so a line
    through two sizes finds it, drawn again through the size found.
    """

    def total(clips: int) -> int:
        return predict(config, device=device, batch=clips, frames=frames).total

    base, base_total = 64, total(64)
    found = 128
    for _ in range(3):
        if found == base:
            break
        each = (total(found) - base_total) / (found - base)
        found = max(1, int(base + (budget - base_total) / each))
    while found and total(found) > budget:
        found -= 1  # by then a clip at most, or all where none fits
    return found


@contextmanager
def _shapes_alone(device: str) -> Iterator[str]:
    """Yields the device to make tensors on.

    The meta device stands for a GPU: autograd refuses fake CUDA tensors where there is no GPU.
    """
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not channels-last")  # shapes have no layout
        if device != "cpu":
            yield "meta"
        else:
            with FakeTensorMode():
                yield "cpu"


def _network(config: Config, place: str) -> I3DResNet:
    classes = config.model.num_classes
    with torch.device(place):
        model = build.build_model(config, classes if isinstance(classes, int) else _CLASSES)
    dtype = AMP_DTYPES[config.optim.amp]
    if place == "meta" and dtype:
        autocast_as_cuda(model, dtype)
    return model.train()


def _run(config: Config, model: nn.Module, clips: int, place: str) -> tuple[int, int]:
    """Returns the bytes kept by the forward pass, and the most alive in the step."""
    data, dtype = config.data, AMP_DTYPES[config.optim.amp]
    size = (clips, 3, data.num_frames, data.crop_size, data.crop_size)
    autocast: AbstractContextManager[Any] = nullcontext()
    if place == "cpu" and dtype:
        autocast = torch.autocast("cpu", dtype)
    with LiveBytes() as live:
        inputs = torch.empty(size, device=place)  # held by name while training goes back, too
        labels = torch.zeros(clips, dtype=torch.long, device=place)
        with autocast:
            loss = F.cross_entropy(model(inputs).float(), labels)
        kept = live.now
        loss.backward()
    return kept, live.peak


def _state_bytes(config: Config, model: nn.Module) -> int:
    """Weights and buffers, their moving average, and the momentum of what is trained."""
    weights = sum(x.nbytes for x in model.state_dict().values())
    trained = sum(p.nbytes for p in model.parameters())
    average = weights if config.optim.ema else 0
    return weights + average + (trained if config.optim.momentum else 0)


# CUDA's autocast


class _CudaAutocast(TorchFunctionMode):
    """Casts as ATen/autocast_mode.h does on CUDA, for what the network calls.

    Convolution and linear are on its list to run in the lower precision, group_norm on that to run
    in float32; batch_norm, ReLU, addition, pools and our kernels take what they are given.
    """

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtypes: dict[Any, torch.dtype] = {F.group_norm: torch.float32}
        self.dtypes |= dict.fromkeys((F.conv3d, F.linear), dtype)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        dtype = self.dtypes.get(func)
        if dtype is not None:
            args = [x.to(dtype) if isinstance(x, Tensor) else x for x in args]
        return func(*args, **(kwargs or {}))


def autocast_as_cuda(model: nn.Module, dtype: torch.dtype) -> None:
    """Lets the layers of `model`, in place, cast as under CUDA's autocast, recomputed ones too."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv3d | nn.Linear | nn.GroupNorm):
            layer.forward = _casting(layer.forward, dtype)


def _casting(forward: Callable[..., Tensor], dtype: torch.dtype) -> Callable[..., Tensor]:
    @wraps(forward)
    def cast(*args: Any, **kwargs: Any) -> Tensor:
        with _CudaAutocast(dtype):
            return forward(*args, **kwargs)

    return cast


# The table


def norms(config: Config, device: str) -> dict[str, Config]:
    """Returns what is compared: name -> the experiment with that norm, its own first."""

    def having(kind: Any, impl: Any) -> Config:
        norm = replace(config.model.norm, kind=kind, impl=impl, sub_batch=None)
        return replace(config, model=replace(config.model, norm=norm))

    found = {"GN, torch's operators": having("gn", "aten")}
    if device != "cpu":
        found["GN, fused kernels"] = having("gn", "triton")
    found["BN, torch's operators"] = having("bn", "aten")
    kind = config.model.norm.kind
    return found if kind in ("gn", "bn") else {f"{kind}, as configured": config} | found


def fit_table(
    config: Config, memory: float, *, device: str, frames: Sequence[int], batches: Sequence[int]
) -> str:
    """Returns a table for the terminal: frames x clips, and what fits `memory` bytes.

    Raises:
        ConfigError: the clips are too small for the network.
    """
    size, model = config.data.crop_size, config.model
    lines = [
        f"{config.name}: {model.arch} at {size} pixels, amp={config.optim.amp}, "
        f"recompute={model.recompute}, on a {'CPU' if device == 'cpu' else 'GPU'}",
        f"GB of a step of so many clips; (in brackets: over {USABLE:.0%} of {memory / 1e9:.1f} GB)",
        "",
        f"{'norm':24}{'frames':>7}{'kept/clip':>11}"
        + "".join(f"{f'x {batch} ':>10}" for batch in batches)
        + f"{'largest':>9}",
    ]
    budget = USABLE * memory
    for name, variant in norms(config, device).items():
        for length in frames:
            cells = [predict(variant, device=device, batch=b, frames=length) for b in batches]
            kept = (cells[-1].kept - cells[0].kept) / max(batches[-1] - batches[0], 1)
            most = largest_batch(variant, budget, device=device, frames=length)
            totals = "".join(f"{_cell(c.total, budget):>10}" for c in cells)
            lines.append(f"{name:24}{length:>7}{kept / 1e6:>8.0f} MB{totals}{most:>9}")
    return "\n".join(lines)


def _cell(size: float, budget: float) -> str:
    text = f"{size / 1e9:.2f}"
    return f"{text} " if size <= budget else f"({text})"


def device_memory(device: torch.device) -> int:
    """Returns the bytes of a device: of the GPU, or of the machine for others."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
