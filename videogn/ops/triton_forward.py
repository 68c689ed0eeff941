# ruff: noqa: ANN001, ANN201, PLR0913 - Triton has no annotation for tensors, and takes no tuples
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""The Triton kernels of fused normalization over a channels-last tensor, seen as rows: forward.

A tensor is (samples, positions, channels), channels fastest. The values of a sample that share
statistics are `width` neighbouring channels, a group, at all positions: group norm. Batch norm is
the same with the whole batch as one sample and groups of one channel. Three kernels each way; each
sum is taken in a fixed order, without atomics, so that two runs give the same bits:

    moments       mean and M2 of each channel over a chunk of positions     -> partial
    statistics    partial -> shift, delta, rstd, var of each (sample, group)
    normalize     y = relu(((x - shift) - delta) * rstd * gamma + beta + residual)

    sums          of dz and of dz * xhat, of each channel over a chunk      -> partial
    coefficients  partial -> c1, c2 of each (sample, group), dgamma, dbeta
    derivative    dx = rstd * (gamma * dz - c1 - xhat * c2)

where dz is dy where the ReLU is open, xhat the normalized value, c1 and c2 the means of gamma * dz
and gamma * dz * xhat over the group. A program walks down its chunk tile by tile.

Numerics (all arithmetic is float32, whatever the dtype of x):

* `shift` is the first value of the group. It takes a large common mean away before anything is
  rounded (x - shift is exact where x / 2 <= shift <= 2 x), and `delta`, the mean of the rest, is
  small. Computed as a * x + b, three digits would be lost at mean / std = 1000.
* Squares are summed about a value of their own: every element of a tile (a slot) takes the first
  value it meets as origin. This bounds the error by (tiles per chunk) roundings even if that value
  is an outlier. Slots, chunks and channels are then merged by Chan's formula,
  M2 = sum(M2_i + n_i * (mean_i - mean)^2).
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def place(
    positions, chunk, channels: tl.constexpr, tile_channels: tl.constexpr, backwards: tl.constexpr
):
    """Which channels, chunk and sample are this program's; its number of rows, its first element.

    Axis 0 of the grid is (chunk, block of channels), the latter fastest, so that neighbours read
    whole rows; axis 1 is the sample. The second pass over a tensor goes `backwards`: it meets first
    what the first pass read last, which is still in the cache.
    """
    blocks: tl.constexpr = (channels + tile_channels - 1) // tile_channels
    program = tl.program_id(0)
    sample = tl.program_id(1)
    if backwards:
        program = tl.num_programs(0) - 1 - program
        sample = tl.num_programs(1) - 1 - sample
    columns = program % blocks * tile_channels + tl.arange(0, tile_channels)
    index = program // blocks
    rows = tl.minimum(chunk, positions - index * chunk)
    first = (sample.to(tl.int64) * positions + index * chunk) * channels  # may pass 2^31
    return columns, index, sample, rows, first


@triton.jit
def inside_of(row, rows, columns, channels: tl.constexpr):
    """Which elements of a tile exist."""
    return (row < rows)[:, None] & (columns < channels)[None, :]


@triton.jit
def of_groups(ptr, row, sample, samples, columns, channels: tl.constexpr, width: tl.constexpr):
    """Row `row` of a (rows, samples, groups) tensor, for each of `columns`, as (1, columns)."""
    groups: tl.constexpr = channels // width
    offset = (row * samples + sample) * groups + columns // width
    return tl.load(ptr + offset, mask=columns < channels, other=0.0)[None, :]


@triton.jit
def layer_of(
    stats_ptr, gamma_ptr, beta_ptr, sample, samples, columns,
    channels: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    """Shift, delta, rstd, gamma and beta of `columns`, each (1, columns) in float32."""
    shift = of_groups(stats_ptr, 0, sample, samples, columns, channels, width)
    delta = of_groups(stats_ptr, 1, sample, samples, columns, channels, width)
    rstd = of_groups(stats_ptr, 2, sample, samples, columns, channels, width)
    exists = columns < channels
    gamma = tl.load(gamma_ptr + columns, mask=exists, other=0.0).to(tl.float32)
    beta = tl.load(beta_ptr + columns, mask=exists, other=0.0).to(tl.float32)
    return shift, delta, rstd, gamma[None, :], beta[None, :]


@triton.jit
def moments(
    x_ptr, partial_ptr, positions, chunk, chunks, samples,
    channels: tl.constexpr, width: tl.constexpr,
    tile_rows: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """Writes partial[0 | 1, sample, chunk, channel]: the mean less `shift`, and M2."""
    columns, index, sample, rows, first = place(positions, chunk, channels, tile_channels, False)
    row = tl.arange(0, tile_rows)
    tile = x_ptr + first + row[:, None] * channels + columns[None, :]
    origin = tl.load(tile, mask=inside_of(row, rows, columns, channels), other=0.0).to(tl.float32)
    total = tl.zeros([tile_rows, tile_channels], tl.float32)
    squares = tl.zeros([tile_rows, tile_channels], tl.float32)
    for start in tl.range(tile_rows, rows, tile_rows, loop_unroll_factor=4):
        inside = inside_of(start + row, rows, columns, channels)
        value = tl.load(tile + start * channels, mask=inside, other=0.0).to(tl.float32)
        value = tl.where(inside, value - origin, 0.0)
        total += value
        squares += value * value
    count = ((rows - row + tile_rows - 1) // tile_rows).to(tl.float32)[:, None]  # of each slot
    filled = tl.maximum(count, 1.0)
    group = sample.to(tl.int64) * positions * channels + columns // width * width
    shift = tl.load(x_ptr + group, mask=columns < channels, other=0.0).to(tl.float32)
    slot = (origin - shift[None, :]) + total / filled
    mean = tl.sum(count * slot, 0) / rows
    away = slot - mean[None, :]
    m2 = tl.sum(squares - total * (total / filled) + count * away * away, 0)
    out = partial_ptr + (sample * chunks + index) * channels + columns
    tl.store(out, mean, mask=columns < channels)
    tl.store(out + samples * chunks * channels, m2, mask=columns < channels)


@triton.jit
def statistics(
    x_ptr, partial_ptr, stats_ptr, positions, chunk, chunks, samples, eps,
    channels: tl.constexpr, width: tl.constexpr,
    tile_chunks: tl.constexpr, tile_groups: tl.constexpr, tile_width: tl.constexpr,
):  # fmt: skip
    """Merges `partial` to stats[0..3, sample, group]: shift, delta, rstd, biased variance."""
    groups: tl.constexpr = channels // width
    group = tl.program_id(0) * tile_groups + tl.arange(0, tile_groups)
    lane = tl.arange(0, tile_width)
    sample = tl.program_id(1)
    member = ((group < groups)[:, None] & (lane < width)[None, :])[None, :, :]
    column = (group[:, None] * width + lane[None, :])[None, :, :]
    means = partial_ptr + sample * chunks * channels
    squares = means + samples * chunks * channels
    total = tl.zeros([tile_groups], tl.float32)
    for start in range(0, chunks, tile_chunks):
        index = (start + tl.arange(0, tile_chunks))[:, None, None]
        inside = (index < chunks) & member
        count = tl.minimum(chunk, positions - index * chunk).to(tl.float32)
        mean = tl.load(means + index * channels + column, mask=inside, other=0.0)
        total += tl.sum(tl.sum(count * mean, 2), 0)
    size = positions * 1.0 * width
    delta = total / size
    total = tl.zeros([tile_groups], tl.float32)
    for start in range(0, chunks, tile_chunks):
        index = (start + tl.arange(0, tile_chunks))[:, None, None]
        inside = (index < chunks) & member
        count = tl.minimum(chunk, positions - index * chunk).to(tl.float32)
        mean = tl.load(means + index * channels + column, mask=inside, other=0.0)
        away = tl.where(inside, mean - delta[None, :, None], 0.0)
        m2 = tl.load(squares + index * channels + column, mask=inside, other=0.0)
        total += tl.sum(tl.sum(m2 + count * away * away, 2), 0)
    var = total / size
    origin = x_ptr + sample.to(tl.int64) * positions * channels
    shift = tl.load(origin + group * width, mask=group < groups, other=0.0).to(tl.float32)
    out = stats_ptr + sample * groups + group
    tl.store(out, shift, mask=group < groups)
    tl.store(out + samples * groups, delta, mask=group < groups)
    rstd = tl.div_rn(tl.full([tile_groups], 1.0, tl.float32), tl.sqrt_rn(var + eps))
    tl.store(out + 2 * samples * groups, rstd, mask=group < groups)
    tl.store(out + 3 * samples * groups, var, mask=group < groups)


@triton.jit
def normalize(
    x_ptr, residual_ptr, y_ptr, stats_ptr, gamma_ptr, beta_ptr, positions, chunk, samples,
    channels: tl.constexpr, width: tl.constexpr, relu: tl.constexpr, add: tl.constexpr,
    tile_rows: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """Writes y; `residual_ptr` is read only if `add`."""
    columns, _, sample, rows, first = place(positions, chunk, channels, tile_channels, True)
    shift, delta, rstd, gamma, beta = layer_of(
        stats_ptr, gamma_ptr, beta_ptr, sample, samples, columns, channels, width
    )
    scale = rstd * gamma
    row = tl.arange(0, tile_rows)
    tile = row[:, None] * channels + columns[None, :]
    for start in range(0, rows, tile_rows):
        inside = inside_of(start + row, rows, columns, channels)
        here = first + start * channels
        x = tl.load(x_ptr + here + tile, mask=inside, other=0.0).to(tl.float32)
        z = ((x - shift) - delta) * scale + beta
        if add:
            z += tl.load(residual_ptr + here + tile, mask=inside, other=0.0).to(tl.float32)
        if relu:
            z = tl.maximum(z, 0.0, propagate_nan=tl.PropagateNan.ALL)
        tl.store(y_ptr + here + tile, z.to(y_ptr.dtype.element_ty), mask=inside)
