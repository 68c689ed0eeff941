# ruff: noqa: ANN001, ANN201, PLR0913 - Triton has no annotation for tensors, and takes no tuples
# pyright: reportMissingImports=false, reportArgumentType=false, reportGeneralTypeIssues=false
"""The Triton kernels of the backward pass; `triton_forward` explains all six and their numerics."""

from __future__ import annotations

import triton
import triton.language as tl

from videogn.ops.triton_forward import inside_of, layer_of, of_groups, place


@triton.jit
def sums(
    dy_ptr, x_ptr, y_ptr, dz_ptr, stats_ptr, gamma_ptr, beta_ptr, partial_ptr,
    positions, chunk, chunks, samples,
    channels: tl.constexpr, width: tl.constexpr, relu: tl.constexpr, add: tl.constexpr,
    tile_rows: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """Writes partial[0 | 1, sample, chunk, channel]: the sums of dz and of dz * xhat.

    After an addition the ReLU is told by y, and dz, the residual's gradient, is written here, so
    that `derivative` reads it instead of dy and y; otherwise the ReLU is told by z, from x again.
    """
    columns, index, sample, rows, first = place(positions, chunk, channels, tile_channels, False)
    shift, delta, rstd, gamma, beta = layer_of(
        stats_ptr, gamma_ptr, beta_ptr, sample, samples, columns, channels, width
    )
    row = tl.arange(0, tile_rows)
    first_sum = tl.zeros([tile_rows, tile_channels], tl.float32)
    second_sum = tl.zeros([tile_rows, tile_channels], tl.float32)
    tile = row[:, None] * channels + columns[None, :]
    for start in tl.range(0, rows, tile_rows, loop_unroll_factor=2):
        inside = inside_of(start + row, rows, columns, channels)
        here = first + start * channels
        dz = tl.load(dy_ptr + here + tile, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + here + tile, mask=inside, other=0.0).to(tl.float32)
        centred = (x - shift) - delta
        if relu:
            if add:
                y = tl.load(y_ptr + here + tile, mask=inside, other=0.0).to(tl.float32)
                dz = tl.where(y > 0.0, dz, 0.0)
                tl.store(dz_ptr + here + tile, dz.to(dz_ptr.dtype.element_ty), mask=inside)
            else:
                dz = tl.where(centred * (rstd * gamma) + beta > 0.0, dz, 0.0)
        first_sum += dz
        second_sum += dz * centred
    out = partial_ptr + (sample * chunks + index) * channels + columns
    tl.store(out, tl.sum(first_sum, 0), mask=columns < channels)
    second = tl.sum(second_sum * rstd, 0)
    tl.store(out + samples * chunks * channels, second, mask=columns < channels)


@triton.jit
def coefficients(
    partial_ptr, gamma_ptr, coefficients_ptr, dgamma_ptr, dbeta_ptr, positions, chunks, samples,
    channels: tl.constexpr, width: tl.constexpr,
    tile_chunks: tl.constexpr, tile_groups: tl.constexpr, tile_width: tl.constexpr,
):  # fmt: skip
    """Merges `partial` to coefficients[0 | 1, sample, group] (c1, c2), dgamma and dbeta."""
    groups: tl.constexpr = channels // width
    group = tl.program_id(0) * tile_groups + tl.arange(0, tile_groups)
    lane = tl.arange(0, tile_width)
    member = (group < groups)[:, None] & (lane < width)[None, :]
    column = group[:, None] * width + lane[None, :]
    gamma = tl.load(gamma_ptr + column, mask=member, other=0.0).to(tl.float32)
    dbeta = tl.zeros([tile_groups, tile_width], tl.float32)
    dgamma = tl.zeros([tile_groups, tile_width], tl.float32)
    size = positions * 1.0 * width
    for sample in range(0, samples):
        first = tl.zeros([tile_groups, tile_width], tl.float32)
        second = tl.zeros([tile_groups, tile_width], tl.float32)
        for start in range(0, chunks, tile_chunks):
            index = (start + tl.arange(0, tile_chunks))[:, None, None]
            inside = (index < chunks) & member[None, :, :]
            source = partial_ptr + (sample * chunks + index) * channels + column[None, :, :]
            first += tl.sum(tl.load(source, mask=inside, other=0.0), 0)
            source += samples * chunks * channels
            second += tl.sum(tl.load(source, mask=inside, other=0.0), 0)
        dbeta += first
        dgamma += second
        out = coefficients_ptr + sample * groups + group
        tl.store(out, tl.sum(gamma * first, 1) / size, mask=group < groups)
        tl.store(out + samples * groups, tl.sum(gamma * second, 1) / size, mask=group < groups)
    tl.store(dgamma_ptr + column, dgamma.to(dgamma_ptr.dtype.element_ty), mask=member)
    tl.store(dbeta_ptr + column, dbeta.to(dbeta_ptr.dtype.element_ty), mask=member)


@triton.jit
def derivative(
    dz_ptr, x_ptr, dx_ptr, stats_ptr, coefficients_ptr, gamma_ptr, beta_ptr,
    positions, chunk, samples,
    channels: tl.constexpr, width: tl.constexpr, relu: tl.constexpr, fixed: tl.constexpr,
    tile_rows: tl.constexpr, tile_channels: tl.constexpr,
):  # fmt: skip
    """Writes dx. `relu`: `dz_ptr` is dy still, to be masked. `fixed`: x did not make the stats."""
    columns, _, sample, rows, first = place(positions, chunk, channels, tile_channels, True)
    shift, delta, rstd, gamma, beta = layer_of(
        stats_ptr, gamma_ptr, beta_ptr, sample, samples, columns, channels, width
    )
    c1 = of_groups(coefficients_ptr, 0, sample, samples, columns, channels, width)
    c2 = of_groups(coefficients_ptr, 1, sample, samples, columns, channels, width)
    row = tl.arange(0, tile_rows)
    tile = row[:, None] * channels + columns[None, :]
    for start in range(0, rows, tile_rows):
        inside = inside_of(start + row, rows, columns, channels)
        here = first + start * channels
        dz = tl.load(dz_ptr + here + tile, mask=inside, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + here + tile, mask=inside, other=0.0).to(tl.float32)
        centred = (x - shift) - delta
        if relu:
            dz = tl.where(centred * (rstd * gamma) + beta > 0.0, dz, 0.0)
        dx = gamma * dz
        if not fixed:
            dx = dx - c1 - centred * (rstd * c2)
        tl.store(dx_ptr + here + tile, (rstd * dx).to(dx_ptr.dtype.element_ty), mask=inside)
