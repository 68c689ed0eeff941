"""All that a GPU has to show of the fused normalizations, by one command.

    PYTHONPATH=. python benchmarks/gpu.py --out benchmarks/results/gpu.md

The operators (as benchmarks/ops_gpu.py), whole training steps of I3D-R50 at 224 pixels with 64
frames x 4 clips and 32 x 8, PyTorchVideo's network beside them, the kernels of a step, and the
losses of 200 steps; then each criterion, met or missed. About ten minutes, compilers included.
`--toy` runs the same on a CPU at toy size, where no figure means anything: it tests this program.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks import gpu_steps, ops_gpu
from benchmarks.gpu_steps import EAGER, FUSED, STOCK_BN, THEIRS, VARIANTS, Taken
from videogn import build
from videogn.bench.step import Variant, training
from videogn.config import Config, load_config

LARGE = ("conv1", "res2c", "res3c")
TOY = ("model.width=8", "model.norm.num_groups=4", "data.crop_size=32", "data.short_side=[32,32]")


@dataclass(frozen=True)
class Criterion:
    """One thing to show: `got` is compared with `wanted`; None: it could not be measured."""

    what: str
    wanted: float
    got: float | None
    at_least: bool

    def line(self) -> str:
        """Returns a row of the table."""
        if self.got is None:
            verdict = "not measured"
        else:
            met = self.got >= self.wanted if self.at_least else self.got <= self.wanted
            verdict = "met" if met else "MISSED"
        sign = ">=" if self.at_least else "<="
        got = "" if self.got is None else f"{self.got:.3g}"
        return f"| {self.what} | {sign} {self.wanted:g} | {got} | {verdict} |"


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    device: torch.device
    settings: tuple[tuple[int, int], ...]  # frames, clips
    op_frames: int
    op_clips: int
    rounds: int
    loss_steps: int
    overrides: tuple[str, ...]
    variants: tuple[Variant, ...]

    def config(self, frames: int) -> Config:
        """Returns the experiment at so many frames."""
        config = load_config("i3d_gn_64f", [*self.overrides, f"data.num_frames={frames}"])
        return build.resolve(config, 400)


FULL = Size(torch.device("cuda"), ((64, 4), (32, 8)), 64, 4, 20, 200, (), VARIANTS)
SMALL = Size(
    torch.device("cpu"), ((8, 2),), 8, 1, 1, 3, (*TOY, "device=cpu"),
    tuple(replace(v, impl="aten") for v in VARIANTS if v.compile == "none"),
)  # fmt: skip


# What is measured


def operators(size: Size, say: Callable[[str], None]) -> Iterator[Criterion]:
    """Measures the operators; yields their criteria."""
    found: dict[str, dict[str, float]] = {}
    rates = {}
    for line in ops_gpu.header():
        say(line)
    on_gpu = size.device.type == "cuda"
    for name, (shape, add) in ops_gpu.shapes(size.op_frames, size.op_clips).items():
        real = shape if on_gpu else (*shape[:3], 4, 4)
        on = ops_gpu.layer(name, real, add, torch.bfloat16, size.device.type)
        found[name] = ops_gpu.measure(on)
        copied, fused = ops_gpu.bandwidths(on, found[name])
        rates[name] = fused / copied
        say(ops_gpu.row(on, found[name]))
    say("")
    for name in LARGE:
        yield Criterion(f"bandwidth of a copy's, {name}", 0.75, rates[name], at_least=True)
    for other, wanted in (("eager GN", 2.0), ("autocast GN", 3.0), ("compiled GN", 1.2)):
        times = [sum(each[key] for each in found.values()) for key in (other, "fused GN")]
        what = f"{other} / fused GN, all shapes"
        yield Criterion(what, wanted, times[0] / times[1], at_least=True)


def whole_steps(size: Size, say: Callable[[str], None]) -> Iterator[Criterion]:
    """Measures steps; yields their criteria."""
    for frames, clips in size.settings:
        where = f"{frames} frames x {clips}"
        took = gpu_steps.steps(size.config(frames), size.device, clips, size.rounds, size.variants)
        say(f"| a step of {where} | ms | clips/s | peak GB |")
        say("|---|---|---|---|")
        for name, each in took.items():
            peak = "" if each.peak is None else f"{each.peak / 1e9:.2f}"
            say(f"| {name} | {each.ms:.2f} | {1000 * clips / each.ms:.1f} | {peak} |")
        say("")
        yield from step_criteria(took, where)


def step_criteria(took: Mapping[str, Taken], where: str) -> Iterator[Criterion]:
    """Yields what the times and peaks of one setting show."""
    fused, stock, eager = (took[v.name] for v in (FUSED, STOCK_BN, EAGER))
    yield Criterion(f"GN fused / BN stock, ms, {where}", 1.0, fused.ms / stock.ms, at_least=False)
    speedup = eager.ms / fused.ms
    yield Criterion(f"GN eager autocast / GN fused, ms, {where}", 1.6, speedup, at_least=True)
    theirs = took[THEIRS].ms / fused.ms
    yield Criterion(f"pytorchvideo's GN / GN fused, ms, {where}", 1.0, theirs, at_least=True)
    for other, most in ((stock, 1.02), (eager, 0.6)):
        name = "BN stock" if other is stock else "GN eager autocast"
        known = fused.peak is not None and other.peak is not None
        ratio = (fused.peak or 0) / (other.peak or 1) if known else None
        yield Criterion(f"GN fused / {name}, peak, {where}", most, ratio, at_least=False)


def layout(size: Size, say: Callable[[str], None]) -> Iterator[Criterion]:
    """Looks at the kernels of a step with the fused norm; yields the criterion."""
    frames, clips = size.settings[0]
    made = training(size.config(frames), size.variants[0], size.device, clips)
    kernels = gpu_steps.kernels_of(made.step)
    found = gpu_steps.conversions(kernels)
    say(f"{len(kernels)} kernels in a step; of layout alone, after the stem: {sorted(set(found))}")
    say("")
    got = float(len(found)) if kernels else None
    yield Criterion("kernels of layout alone after the stem", 0, got, at_least=False)


def losses(size: Size, say: Callable[[str], None]) -> Iterator[Criterion]:
    """Trains with the fused norm and with torch's in float32; yields whether they differ.

    Noise is what two runs of torch's in float32 differ by when only dropout draws otherwise.
    """
    frames, clips = size.settings[-1]
    config = size.config(frames)
    eager = Variant("eager fp32", "gn")
    fused = replace(size.variants[0], amp="none")

    def curve(variant: Variant, seed: int) -> torch.Tensor:
        made = training(config, variant, size.device, clips)
        return gpu_steps.smooth(gpu_steps.loss_curve(made, size.loss_steps, seed))

    one, other = curve(eager, 0), curve(eager, 10_000)
    noise = float((one - other).abs().mean())
    for name, variant in (("float32", fused), ("bfloat16", replace(fused, amp="bf16"))):
        differ = float((curve(variant, 0) - one).abs().mean())
        say(f"losses of {size.loss_steps} steps, fused {name}: {differ:.4f} off; noise {noise:.4f}")
        what = f"loss, fused {name} off eager float32, of the noise"
        yield Criterion(what, 1.0, differ / noise, at_least=False)
    say("")


def main() -> int:
    """Prints tables and criteria; returns 1 if one is missed, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="write it to a file, too")
    parser.add_argument("--toy", action="store_true", help="on a CPU at toy size")
    arguments = parser.parse_args()
    if not arguments.toy and not torch.cuda.is_available():
        print("benchmarks/gpu.py needs a CUDA GPU, and torch finds none", file=sys.stderr)
        return 2
    size = SMALL if arguments.toy else FULL
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        print(line, flush=True)
        if arguments.out:  # line by line: what is measured stays, whatever comes
            arguments.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    device = "toy size on a CPU" if arguments.toy else torch.cuda.get_device_name()
    say(f"# Fused normalization, {device}, {time.strftime('%Y-%m-%d')}")
    say("")
    command = " ".join(["PYTHONPATH=. python benchmarks/gpu.py", *sys.argv[1:]])
    say(f"torch {torch.__version__}, CUDA {torch.version.cuda}; `{command}`")
    say("")
    wrong = 0
    for line in [] if arguments.toy else ops_gpu.check():
        say(f"- {line}")
        wrong += "WRONG" in line
    torch.backends.cudnn.benchmark = True
    parts = (operators, whole_steps, layout, losses)
    rows = [criterion.line() for part in parts for criterion in part(size, say)]
    for line in ("| criterion | wanted | got | |", "|---|---|---|---|", *rows):
        say(line)
    return int(bool(wrong) or (not arguments.toy and any("MISSED" in row for row in rows)))


if __name__ == "__main__":
    sys.exit(main())
