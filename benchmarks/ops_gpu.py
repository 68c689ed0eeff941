"""The fused normalizations on a CUDA GPU: right, how fast, and how much faster than torch's.

    PYTHONPATH=. python benchmarks/ops_gpu.py [--frames 64] [--clips 4] [--out FILE.md]

First every kernel against float64 on the GPU itself; then forward and backward of norm (+ addition)
+ ReLU at the shapes of I3D-R50, bfloat16, channels_last_3d. Each candidate is captured as a CUDA
graph, so that launches cost nothing, and timed between two events, the cache overwritten before;
medians. The bandwidth is that of the passes that two-pass kernels need (8 over x; 11 with the
addition), beside that of a copy of the same tensor in the same run. The table goes to the terminal
and, with `--out`, to that file, with the hardware, versions and command.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from videogn.ops import batch_norm_act, group_norm_act

GROUPS = 32
CHANNELS_LAST = torch.channels_last_3d
REPEATS = 30
FLUSHED = 256 * 2**20  # bytes; five times the L2 cache of an H200
PASSES = {False: 8, True: 11}  # forward 3 or 4, backward 5 or 7, as reads and writes of x


@dataclass
class Layer:
    """One normalization of the network and an input for it."""

    name: str
    x: Tensor
    residual: Tensor | None
    weight: Tensor
    bias: Tensor
    dy: Tensor

    @property
    def inputs(self) -> list[Tensor]:
        """All that has a gradient."""
        inputs = [self.x, self.weight, self.bias]
        return inputs if self.residual is None else [*inputs, self.residual]


Act = Callable[[Layer], Tensor]


def shapes(frames: int, clips: int) -> dict[str, tuple[tuple[int, ...], bool]]:
    """(N, C, T, H, W) and whether a residual is added, of the norms of I3D-R50 at 224 pixels."""
    t = frames // 2
    found: dict[str, tuple[tuple[int, ...], bool]] = {"conv1": ((clips, 64, t, 112, 112), False)}
    for stage, (width, frames_there, size) in enumerate(
        [(64, t // 2, 56), (128, t // 4, 28), (256, t // 4, 14), (512, t // 4, 7)], start=2
    ):
        found[f"res{stage}ab"] = (clips, width, frames_there, size, size), False
        found[f"res{stage}c"] = (clips, 4 * width, frames_there, size, size), True
    return found


def layer(
    name: str, shape: tuple[int, ...], add: bool, dtype: torch.dtype, device: str, mean: float = 0
) -> Layer:
    """Random values in channels_last_3d."""
    random = torch.Generator(device).manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=random, device=device)

    def laid(x: Tensor) -> Tensor:
        return x.to(dtype).contiguous(memory_format=CHANNELS_LAST)

    made = Layer(
        name,
        laid(normal(*shape) + mean),
        laid(normal(*shape)) if add else None,
        1 + 0.1 * normal(shape[1]),
        0.1 * normal(shape[1]),
        laid(normal(*shape)),
    )
    for tensor in made.inputs:
        tensor.requires_grad_()
    return made


def fused_gn(on: Layer) -> Tensor:
    """Ours."""
    return group_norm_act(on.x, GROUPS, on.weight, on.bias, residual=on.residual)


def fused_bn(on: Layer) -> Tensor:
    """Ours, by batch."""
    return batch_norm_act(on.x, on.weight, on.bias, None, None, True, 0.1, 1e-5, on.residual)


def stock_bn(on: Layer) -> Tensor:
    """torch's batch norm, addition and ReLU: what GN competes with."""
    y = F.batch_norm(on.x, None, None, on.weight, on.bias, True)
    return F.relu(y if on.residual is None else y + on.residual)


def eager_gn(on: Layer) -> Tensor:
    """torch's group norm, addition and ReLU, all in x's dtype."""
    y = F.group_norm(on.x, GROUPS, on.weight.to(on.x.dtype), on.bias.to(on.x.dtype))
    return F.relu(y if on.residual is None else y + on.residual)


def autocast_gn(on: Layer) -> Tensor:
    """The same as autocast runs it, float32 inside, up to the cast for the next convolution."""
    with torch.autocast(on.x.device.type, torch.bfloat16, cache_enabled=False):
        y = F.group_norm(on.x, GROUPS, on.weight, on.bias)
        y = F.relu(y if on.residual is None else y + on.residual)
    return y.to(on.x.dtype)


CANDIDATES: dict[str, Act] = {
    "fused GN": fused_gn,
    "fused BN": fused_bn,
    "stock BN": stock_bn,
    "eager GN": eager_gn,
    "autocast GN": autocast_gn,
    "compiled GN": torch.compile(eager_gn, dynamic=False),
}


def step(act: Act, on: Layer) -> Callable[[], object]:
    """One forward and backward pass."""
    return lambda: torch.autograd.grad(act(on), on.inputs, on.dy)


def milliseconds(work: Callable[[], object]) -> float:
    """The median GPU time of `work`, captured as a graph, with a cold cache.

    Without a GPU, the CPU time of one run: to try this program.
    """
    if not torch.cuda.is_available():
        start = time.process_time()
        work()
        return 1000 * (time.process_time() - start) + 1e-3
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):  # compiles, and lets cuDNN choose
            work()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = work()
    flush = torch.empty(FLUSHED, dtype=torch.uint8, device="cuda")
    times = []
    for _ in range(REPEATS):
        flush.zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    del kept
    return statistics.median(times)


def check() -> list[str]:
    """One line per case: the largest error of y and of each gradient against float64."""
    lines = []
    for dtype, mean, bound in (
        (torch.float32, 0, 2e-6),
        (torch.float32, 1000, 2e-4),
        (torch.bfloat16, 0, 4e-3),
        (torch.float16, 0, 4e-3),
    ):
        for channels in (64, 256, 2048):
            on = layer("check", (3, channels, 5, 13, 11), True, dtype, "cuda", mean)
            worst, same = compare(on)
            verdict = "ok" if worst <= bound and same else "WRONG"
            lines.append(
                f"{verdict}: {dtype}, C = {channels}, mean / std = {mean}: error {worst:.1e} "
                f"(at most {bound:.0e}), bits {'the same' if same else 'DIFFER'} in two runs"
            )
    return lines


def compare(on: Layer) -> tuple[float, bool]:
    """The largest relative error against float64, and whether two runs agree to the bit."""
    exact = doubled(on)
    with torch.no_grad():
        z = F.group_norm(exact.x, GROUPS, exact.weight, exact.bias)
        z = z if exact.residual is None else z + exact.residual
        for dy in (on.dy, exact.dy):
            dy[z.abs() < 1e-2] = 0  # the gradient of ReLU jumps at 0
    first, second, want = results(fused_gn, on), results(fused_gn, on), results(eager_gn, exact)
    pairs = zip(first, want, strict=True)
    worst = max(((a.double() - b).abs().max() / b.abs().max()).item() for a, b in pairs)
    return worst, all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def doubled(on: Layer) -> Layer:
    """The same in float64."""
    x, weight, bias, *more = [t.detach().double().requires_grad_() for t in on.inputs]
    return Layer(on.name, x, more[0] if more else None, weight, bias, on.dy.double())


def results(act: Act, on: Layer) -> list[Tensor]:
    """y and every gradient."""
    y = act(on)
    return [y.detach(), *torch.autograd.grad(y, on.inputs, on.dy)]


def measure(on: Layer) -> dict[str, float]:
    """Milliseconds of each candidate, and of a copy of x."""
    torch.compiler.reset()  # it compiles for 8 shapes, and then no more without a word of error
    found = {"copy": milliseconds(lambda: on.x.detach().clone())}
    for name, act in CANDIDATES.items():
        found[name] = milliseconds(step(act, on))
        torch.cuda.empty_cache()
    return found


def bandwidths(on: Layer, found: dict[str, float]) -> tuple[float, float]:
    """TB/s of a copy, and of the fused group norm by the passes that it needs."""
    size = on.x.numel() * on.x.element_size()
    passes = PASSES[on.residual is not None]
    return 2 * size / found["copy"] / 1e9, passes * size / found["fused GN"] / 1e9


def row(on: Layer, found: dict[str, float]) -> str:
    """A line of the table."""
    size = on.x.numel() * on.x.element_size()
    copied, fused = bandwidths(on, found)
    cells = [on.name, "x".join(map(str, on.x.shape)), f"{size / 1e6:.0f}"]
    cells += [f"{found[name]:.3f}" for name in CANDIDATES]
    cells += [f"{copied:.2f}", f"{fused:.2f}", f"{fused / copied:.0%}"]
    others = ("eager GN", "autocast GN", "compiled GN", "stock BN")
    cells += [f"{found[name] / found['fused GN']:.2f}" for name in others]
    return "| " + " | ".join(cells) + " |"


def header() -> list[str]:
    """The table's head."""
    names = ["layer", "shape", "MB", *(f"{name}, ms" for name in CANDIDATES)]
    names += ["copy, TB/s", "fused GN, TB/s", "of a copy"]
    names += [f"{name} / fused" for name in ("eager", "autocast", "compiled", "stock BN")]
    return ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]


def main() -> int:
    """Prints the checks and the table; returns 1 if a check fails, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--frames", type=int, default=64)
    parser.add_argument("--clips", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print("benchmarks/ops_gpu.py needs a CUDA GPU, and torch finds none", file=sys.stderr)
        return 2
    command = " ".join(["PYTHONPATH=. python benchmarks/ops_gpu.py", *sys.argv[1:]])
    versions = f"torch {torch.__version__}, CUDA {torch.version.cuda}"
    lines = [
        f"# Fused normalization, {torch.cuda.get_device_name()}, {time.strftime('%Y-%m-%d')}",
        *("", f"{versions}; `{command}`", "", *(f"- {line}" for line in check()), ""),
        *header(),
    ]
    print("\n".join(lines), flush=True)
    for name, (shape, add) in shapes(arguments.frames, arguments.clips).items():
        on = layer(name, shape, add, torch.bfloat16, "cuda")
        lines.append(row(on, measure(on)))
        print(lines[-1], flush=True)
    if arguments.out:
        arguments.out.write_text("\n".join(lines) + "\n")
    return int(any("WRONG" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
