"""`run.py bench step`: what a training step takes with GN and BN, on whatever device there is.

All variants of one setting are measured in one run; only their ratios mean anything on a machine
that does other things too. On a CPU times are CPU times of one thread, taken in turn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videogn import build, fit
from videogn.bench import on_gpu
from videogn.bench.rounds import cpu_seconds, environment
from videogn.config import Config
from videogn.engine.state import TrainState
from videogn.engine.train import AMP_DTYPES, compiled
from videogn.errors import ConfigError
from videogn.live_bytes import LiveBytes
from videogn.model.swap import swap_norm

PACKAGES = ("torch", "triton", "numpy")
_CLASSES = 400

_LEGEND = (
    "norm: the share of the step that goes when the norms are left out, ReLU and additions kept.\n"
    "kept: bytes that the forward pass leaves for backward (of autocast, weights too).\n"
    "peak: {peak}.\n"
    "largest: the most clips of a step that fit, {largest}."
)


@dataclass(frozen=True)
class Variant:
    """A way to take the step."""

    name: str
    kind: Literal["gn", "bn"] | None  # None: no normalization at all
    amp: Literal["none", "bf16"] = "none"
    impl: Literal["aten", "triton"] = "aten"
    compile: Literal["none", "compile", "graphs"] = "none"

    def of(self, config: Config) -> Config:
        """Returns the experiment taken so."""
        norm = replace(config.model.norm, kind=self.kind or "gn", impl=self.impl, sub_batch=None)
        model = replace(config.model, norm=norm, compile=self.compile)
        return replace(config, model=model, optim=replace(config.optim, amp=self.amp))


@dataclass
class Measured:
    """What one variant took; None: not measured here."""

    name: str
    ms: float
    clips_per_s: float
    norm_share: float | None = None
    kept_mb_per_clip: float | None = None
    peak_gb: float | None = None
    largest: int | None = None


@dataclass
class Setting:
    """One size of input and all variants of it."""

    frames: int
    size: int
    clips: int
    rows: list[Measured] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)


def variants(device: torch.device, *, compile: bool) -> list[Variant]:
    """Returns what is measured on a device; the compilers only where asked for."""
    found = []
    for amp in ("none", "bf16"):
        suffix = "" if amp == "none" else ", bf16"
        found += [
            Variant(f"GN{suffix}", "gn", amp),
            Variant(f"BN{suffix}", "bn", amp),
            Variant(f"no norm{suffix}", None, amp),
        ]
        if device.type == "cuda":
            found += [
                Variant(f"GN fused{suffix}", "gn", amp, "triton"),
                Variant(f"BN fused{suffix}", "bn", amp, "triton"),
            ]
    if compile:
        found += [Variant("GN compiled, bf16", "gn", "bf16", compile="compile")]
        found += [Variant("BN compiled, bf16", "bn", "bf16", compile="compile")]
    if compile and device.type == "cuda":
        for how in ("compile", "graphs"):
            name = "compiled" if how == "compile" else "graphs"
            found.append(Variant(f"GN fused, {name}, bf16", "gn", "bf16", "triton", how))
        found.append(Variant("BN graphs, bf16", "bn", "bf16", compile="graphs"))
    return found


def bench_step(
    config: Config,
    out: Path | None,
    *,
    frames: Sequence[int],
    size: int,
    clips: int,
    rounds: int,
    compile: bool,
    memory: float | None = None,
) -> str:
    """Measures, writes JSON to `out` if given, and returns a table.

    Args:
        config: of the experiment, whose network, optimizer and device are used.
        out: see above.
        frames: of a clip, one setting each.
        size: pixels of a clip's side.
        clips: of a step.
        rounds: medians of so many.
        compile: measure compiled networks, and CUDA graphs, too.
        memory: bytes for which the largest batch is predicted; else of the present device.

    Raises:
        ConfigError: the clips are too small, or too few, to take the step with.
    """
    device = build.pick_device(config)
    torch.set_num_threads(1)
    build.set_up_torch(config, device)
    config = build.resolve(config, _CLASSES)
    all_sized = [
        replace(config, data=replace(config.data, num_frames=number, crop_size=size))
        for number in frames
    ]
    for sized in all_sized:
        require_size(sized, clips)
    settings = []
    for sized in all_sized:
        setting = Setting(sized.data.num_frames, size, clips)
        _measure(setting, sized, device, variants(device, compile=compile), rounds, memory)
        settings.append(setting)
    if out is not None:
        record = {
            "command": " ".join(["python run.py", *sys.argv[1:]]),
            **environment(PACKAGES),
            "device": _name(device),
            "experiment": config.name,
            "arch": config.model.arch,
            "rounds": rounds,
            "settings": [asdict(setting) for setting in settings],
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    on_cpu = device.type != "cuda"
    legend = _LEGEND.format(
        peak="bytes of all tensors, predicted" if on_cpu else "bytes of all tensors",
        largest="predicted" if on_cpu else "by trial",
    )
    lines = [line for setting in settings for line in _lines(setting, device)]
    return "\n".join([*lines, legend])


def require_size(config: Config, clips: int) -> None:
    """Checks that every variant can take a step with so many clips of the configured size.

    Raises:
        ConfigError: batch norm would see one value per channel; or a stage would halve a map of
            one pixel, at which torch 2.15 writes past its memory (bfloat16, backward, on a CPU).
    """
    entering: list[int] = []  # sides of the maps that the stages are given
    with torch.device("meta"):
        model = build.build_model(Variant("GN", "gn").of(config), _CLASSES).eval()
        for stage in model.stages[1:]:
            stage.register_forward_pre_hook(lambda _, given: entering.append(given[0].shape[-1]))
        data = config.data
        model(torch.empty(1, 3, data.num_frames, data.crop_size, data.crop_size))
    clip = f"a clip of {data.num_frames} frames at {data.crop_size} pixels"
    if min(entering) < 2:
        raise ConfigError(
            f"{clip} is too small to measure: a stage would halve a map of one pixel; raise --size,"
            " to 32 for example"
        )
    if clips * prod(model.window) == 1:
        raise ConfigError(
            f"{clip} leaves batch norm one value per channel, which has no variance; raise --batch "
            "to 2 or more, or --size"
        )


def _measure(
    setting: Setting,
    config: Config,
    device: torch.device,
    wanted: Sequence[Variant],
    rounds: int,
    memory: float | None,
) -> None:
    times = _times(config, device, wanted, setting.clips, rounds)
    for variant in wanted:
        ms = times[variant.name]
        row = Measured(variant.name, round(ms, 3), round(1000 * setting.clips / ms, 3))
        bare = times["no norm" if variant.amp == "none" else "no norm, bf16"]
        if variant.kind and variant.compile == "none":
            row.norm_share = round(1 - bare / ms, 3)
        if variant.compile == "none":
            row.kept_mb_per_clip = round(_kept(config, variant, device, setting.clips) / 1e6, 2)
        if device.type == "cuda":
            row.peak_gb = round(_peak(config, variant, device, setting.clips) / 1e9, 3)
            row.largest = _largest(config, variant, device)
        elif variant.kind and variant.compile == "none":
            at = variant.of(config)
            row.peak_gb = round(fit.predict(at, device="cpu", batch=setting.clips).total / 1e9, 3)
            budget = fit.USABLE * (memory or fit.device_memory(device))
            row.largest = fit.largest_batch(at, budget, device="cpu")
        setting.rows.append(row)
    for other, one in _COMPARED:
        if {other, one} <= times.keys():
            setting.ratios[f"{other} / {one}"] = round(times[other] / times[one], 3)


_COMPARED = (
    ("GN", "BN"),
    ("GN, bf16", "BN, bf16"),
    ("GN fused", "BN"),
    ("GN fused, bf16", "BN, bf16"),
    ("GN, bf16", "GN fused, bf16"),
    ("GN compiled, bf16", "GN, bf16"),
    ("GN fused, graphs, bf16", "BN graphs, bf16"),
)


# One step


@dataclass
class Training:
    """A network in training with a batch of made-up clips on its device."""

    state: TrainState
    forward: nn.Module
    clips: Tensor  # uint8 (N, T, S, S, 3), as they come from the loader
    labels: Tensor
    to_input: Callable[[Tensor], Tensor]
    dtype: torch.dtype | None

    def loss(self) -> Tensor:
        """Returns the loss of the batch, ready to go back."""
        x = self.to_input(self.clips)
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype is not None):
            return F.cross_entropy(self.forward(x), self.labels)

    def step(self) -> Tensor:
        """Takes one step as training does; returns its loss, still on the device."""
        self.state.optimizer.zero_grad(set_to_none=True)
        loss = self.loss()
        loss.backward()
        self.state.optimizer.step()
        return loss.detach()


def training(config: Config, variant: Variant, device: torch.device, clips: int) -> Training:
    """Returns a network to be stepped, from the parts that training uses."""
    config = variant.of(config)
    model = build.build_model(config, _CLASSES)
    if variant.kind is None:
        swap_norm(model, lambda _: nn.Identity())
    state = build.build_state(config, model.train(), device)
    random = torch.Generator().manual_seed(0)
    size = (clips, config.data.num_frames, config.data.crop_size, config.data.crop_size, 3)
    return Training(
        state,
        compiled(model, variant.compile),
        torch.randint(0, 256, size, dtype=torch.uint8, generator=random).to(device),
        torch.arange(clips, device=device) % _CLASSES,
        build.build_to_input(config, device),
        AMP_DTYPES[config.optim.amp],
    )


def _times(
    config: Config, device: torch.device, wanted: Sequence[Variant], clips: int, rounds: int
) -> dict[str, float]:
    """Returns milliseconds by variant: of CPU time taken in turn, or of GPU time one by one."""
    if device.type != "cuda":
        steps = {v.name: training(config, v, device, clips).step for v in wanted}
        return {name: 1000 * each for name, each in cpu_seconds(steps, rounds).items()}
    found = {}
    for variant in wanted:
        found[variant.name] = on_gpu.milliseconds(
            training(config, variant, device, clips).step, rounds
        )
        on_gpu.release()
    return found


def _kept(config: Config, variant: Variant, device: torch.device, clips: int) -> float:
    """Returns the bytes per clip that a forward pass leaves for backward."""
    made = training(config, variant, device, clips)
    with LiveBytes() as live:
        loss = made.loss()
        assert loss.requires_grad
        return live.now / clips


def _peak(config: Config, variant: Variant, device: torch.device, clips: int) -> int:
    on_gpu.release()
    return on_gpu.peak_bytes(training(config, variant, device, clips).step)


def _largest(config: Config, variant: Variant, device: torch.device) -> int | None:
    if variant.kind is None or variant.compile != "none":
        return None  # the first is no network to train, the others compile for each size

    def runs(clips: int) -> None:
        on_gpu.peak_bytes(training(config, variant, device, clips).step)

    return on_gpu.largest(runs)


# What is printed


def _name(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type}, one thread, CPU time"


def _lines(setting: Setting, device: torch.device) -> Iterator[str]:
    size = f"{setting.frames}x{setting.size}x{setting.size}"
    yield f"{setting.clips} clips of {size}, {_name(device)}"
    yield (
        f"    {'':24}{'ms/step':>10}{'clips/s':>10}{'norm':>7}{'kept/clip':>12}{'peak':>10}"
        f"{'largest':>9}"
    )
    for row in setting.rows:
        yield (
            f"    {row.name:24}{row.ms:>10.1f}{row.clips_per_s:>10.2f}"
            f"{_or(row.norm_share, '{:.0%}'):>7}{_or(row.kept_mb_per_clip, '{:.1f} MB'):>12}"
            f"{_or(row.peak_gb, '{:.2f} GB'):>10}{_or(row.largest, '{}'):>9}"
        )
    for what, ratio in setting.ratios.items():
        yield f"    {what:44}{ratio:>6.3f}"
    yield ""


def _or(value: Any, text: str) -> str:
    return "" if value is None else text.format(value)
