"""The kernels called on tensors: how a tensor is cut into programs, and the steps each way."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from videogn.ops import triton_backward, triton_forward

# Chosen from the limits of one multiprocessor of an H100 or H200 and the compiled kernels' register
# counts, not yet tuned on one: benchmarks/ops_gpu.py measures what they give.
TILE = 2048  # elements of a tile: 16 per thread, two 16-byte loads of bfloat16, four of float32
TILE_CHANNELS = 256  # at most; 512 neighbouring bytes of bfloat16
CHUNKS = 2048  # programs of the first pass over a large tensor: 15 per multiprocessor
TILES_PER_CHUNK = 4  # at least, so that `partial` stays small beside the tensor
TILES_PER_PROGRAM = 8  # at most, of the second pass, which reads gamma and so on once for these
PROGRAMS = 1024  # of the second pass over a small tensor, whose programs take fewer tiles
MERGED = 2048  # elements of `partial` in a tile of the merging kernels
MERGED_CHANNELS = 8  # at least, if there are: 32 bytes, the smallest unit of memory


@dataclass(frozen=True)
class Tiling:
    """How (samples, positions, channels) is cut. It depends on shapes alone, so results do too."""

    samples: int
    positions: int
    channels: int
    width: int  # channels per group
    tile_rows: int
    tile_channels: int
    chunk: int  # positions of a program of the first pass
    chunks: int

    @property
    def groups(self) -> int:
        """Groups per sample."""
        return self.channels // self.width

    @property
    def constants(self) -> dict[str, int]:
        """Constants of the kernels over the whole tensor."""
        return {
            "channels": self.channels,
            "width": self.width,
            "tile_rows": self.tile_rows,
            "tile_channels": self.tile_channels,
        }

    @property
    def step(self) -> int:
        """Positions of a program of the second pass."""
        tiles, samples = self.grid(self.tile_rows)
        return self.tile_rows * min(max(1, tiles * samples // PROGRAMS), TILES_PER_PROGRAM)

    @property
    def merging(self) -> dict[str, int]:
        """Constants of the kernels that merge the chunks."""
        tile_width = power_of_two(self.width)
        tile_groups = min(max(1, MERGED_CHANNELS // tile_width), power_of_two(self.groups))
        tile_chunks = max(1, MERGED // (tile_groups * tile_width))
        return {
            "channels": self.channels,
            "width": self.width,
            "tile_chunks": min(tile_chunks, power_of_two(self.chunks)),
            "tile_groups": tile_groups,
            "tile_width": tile_width,
        }

    @property
    def merging_programs(self) -> int:
        """Programs per sample of those kernels."""
        return ceil_div(self.groups, self.merging["tile_groups"])

    def grid(self, rows: int) -> tuple[int, int]:
        """The grid of programs that take `rows` positions each."""
        blocks = ceil_div(self.channels, self.tile_channels)
        return ceil_div(self.positions, rows) * blocks, self.samples


def ceil_div(number: int, divisor: int) -> int:
    """`number / divisor`, rounded up."""
    return -(-number // divisor)


def power_of_two(number: int) -> int:
    """The smallest power of two that is not less than `number`."""
    return 1 << (number - 1).bit_length()


def tiling(samples: int, positions: int, channels: int, groups: int) -> Tiling:
    """Cuts a tensor; nothing of it may be empty."""
    tile_channels = min(power_of_two(channels), TILE_CHANNELS)
    tile_rows = TILE // tile_channels
    wanted = ceil_div(CHUNKS, samples * ceil_div(channels, tile_channels))
    chunk = max(ceil_div(positions, wanted * tile_rows), TILES_PER_CHUNK) * tile_rows
    chunks = ceil_div(positions, chunk)
    width = channels // groups
    return Tiling(samples, positions, channels, width, tile_rows, tile_channels, chunk, chunks)


def rows_of(x: Tensor) -> Tensor:
    """(N, C, *spatial) as contiguous (N, *spatial, C): a view of a channels-last x, else a copy."""
    return x.movedim(1, -1).contiguous()


def tiling_of(rows: Tensor, groups: int, over_batch: bool) -> Tiling:
    """How `rows` is cut, whose statistics are those of each sample or of the batch as one."""
    positions = rows[0, ..., 0].numel()
    samples = rows.shape[0]
    if over_batch:
        samples, positions = 1, samples * positions
    return tiling(samples, positions, rows.shape[-1], groups)


def _run(kernel: Any, grid: tuple[int, ...], *arguments: Tensor | float, **constants: int) -> None:
    on = arguments[0]
    assert isinstance(on, Tensor)
    # Triton launches on the current device, whatever device its arguments are on.
    with torch.cuda.device(on.device) if on.is_cuda else contextlib.nullcontext():
        kernel[grid](*arguments, **constants)


def compute_statistics(rows: Tensor, cut: Tiling, eps: float) -> Tensor:
    """Returns float32 (4, samples, groups): shift, mean less shift, rstd, biased variance."""
    partial = rows.new_empty((2, cut.samples, cut.chunks, cut.channels), dtype=torch.float32)
    stats = rows.new_empty((4, cut.samples, cut.groups), dtype=torch.float32)
    sizes = (cut.positions, cut.chunk, cut.chunks, cut.samples)
    _run(triton_forward.moments, cut.grid(cut.chunk), rows, partial, *sizes, **cut.constants)
    grid = (cut.merging_programs, cut.samples)
    _run(triton_forward.statistics, grid, rows, partial, stats, *sizes, eps, **cut.merging)
    return stats


def apply_statistics(
    rows: Tensor,
    residual: Tensor | None,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor,
    cut: Tiling,
    relu: bool,
) -> Tensor:
    """Returns y in the layout and dtype of `rows`; `residual` has both as well."""
    y = torch.empty_like(rows)
    tensors = (rows, rows if residual is None else residual, y, stats, weight, bias)
    step = cut.step
    flags = {"relu": relu, "add": residual is not None}
    sizes = (cut.positions, step, cut.samples)
    _run(triton_forward.normalize, cut.grid(step), *tensors, *sizes, **cut.constants, **flags)
    return y


def gradients(
    dy: Tensor,
    rows: Tensor,
    y: Tensor | None,
    stats: Tensor,
    weight: Tensor,
    bias: Tensor,
    cut: Tiling,
    relu: bool,
    fixed: bool,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """Returns dx, dz, dgamma and dbeta. `dy`, `rows`, `y`, dx and dz share layout and dtype.

    `y` is the output of normalization, addition and ReLU, or None unless all three were done; dz,
    the gradient of what was added, is None then as well (without a ReLU it is dy). `fixed` says
    that the statistics were given, not computed from x.
    """
    layer = (stats, weight, bias)
    partial = rows.new_empty((2, cut.samples, cut.chunks, cut.channels), dtype=torch.float32)
    dz = None if y is None else torch.empty_like(rows)
    masked, opened = (rows, rows) if y is None or dz is None else (dz, y)  # rows: never touched
    sizes = (cut.positions, cut.chunk, cut.chunks, cut.samples)
    flags = {"relu": relu, "add": y is not None}
    tensors = (dy, rows, opened, masked, *layer, partial)
    _run(triton_backward.sums, cut.grid(cut.chunk), *tensors, *sizes, **cut.constants, **flags)

    means = rows.new_empty((2, cut.samples, cut.groups), dtype=torch.float32)
    dweight, dbias = torch.empty_like(weight), torch.empty_like(bias)
    tensors = (partial, weight, means, dweight, dbias)
    sizes = (cut.positions, cut.chunks, cut.samples)
    grid = (cut.merging_programs,)
    _run(triton_backward.coefficients, grid, *tensors, *sizes, **cut.merging)

    dx = torch.empty_like(rows)
    tensors = (dy if dz is None else dz, rows, dx, stats, means, weight, bias)
    step = cut.step
    sizes = (cut.positions, step, cut.samples)
    flags = {"relu": relu and y is None, "fixed": fixed}
    _run(triton_backward.derivative, cut.grid(step), *tensors, *sizes, **cut.constants, **flags)
    return dx, dz, dweight, dbias
