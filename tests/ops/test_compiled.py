"""The kernels as a GPU gets them: compiled for sm_90 with no GPU present, and read."""

from __future__ import annotations

import math
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

triton = pytest.importorskip("triton", reason="Triton is not installed")

from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from videogn.ops import launch  # noqa: E402

POINTER = {torch.bfloat16: "*bf16", torch.float16: "*fp16", torch.float32: "*fp32"}
OVER_TENSOR = ("moments", "normalize", "sums", "derivative")  # the others read `partial`

# Inputs of the norms of I3D-R50 (64 frames at 224, 4 clips), G = 32: all C and all D = C / G.
SHAPES = [
    *[(4, 64, 32, 112, 112), (4, 256, 16, 56, 56), (4, 128, 8, 56, 56), (4, 512, 8, 28, 28)],
    *[(4, 1024, 8, 14, 14), (4, 2048, 8, 7, 7)],
]


class Call(NamedTuple):
    kernel: JITFunction
    arguments: tuple[Any, ...]
    constants: dict[str, int]


class Compiled(NamedTuple):
    ptx: str
    resources: str  # "REG:78 STACK:0 SHARED:512 LOCAL:0 ..."


def calls(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, ...],
    dtype: torch.dtype = torch.bfloat16,
    *,
    groups: int = 32,
    relu: bool = True,
    add: bool = False,
    over_batch: bool = False,
    fixed: bool = False,
) -> list[Call]:
    """The six launches of one layer, as they would be made, on tensors without memory."""
    made: list[Call] = []
    monkeypatch.setattr(launch, "_run", lambda k, grid, *a, **c: made.append(Call(k, a, c)))
    rows = torch.empty((shape[0], *shape[2:], shape[1]), dtype=dtype, device="meta")
    gamma = torch.empty(shape[1], device="meta")
    cut = launch.tiling_of(rows, groups, over_batch)
    stats = launch.compute_statistics(rows, cut, 1e-5)
    y = launch.apply_statistics(rows, rows if add else None, stats, gamma, gamma, cut, relu)
    output = y if add and relu else None
    launch.gradients(rows, rows, output, stats, gamma, gamma, cut, relu, fixed)
    return made


Build = Callable[[Call], Compiled]


@pytest.fixture
def build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Build:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    # What Triton does now; unset, it says that the default will change.
    monkeypatch.setenv("TRITON_DEFAULT_FP_FUSION", "1")

    def compiled(call: Call) -> Compiled:
        if not isinstance(call.kernel, JITFunction):
            pytest.skip("TRITON_INTERPRET is set in this process")
        # As at a launch: tensors start at multiples of 16 bytes, so are integers that are, and an
        # integer of 1 is a constant.
        signature, hints, constants = {}, {}, dict(call.constants)
        for place, (name, value) in enumerate(
            zip(call.kernel.arg_names, call.arguments, strict=False)
        ):
            if isinstance(value, torch.Tensor):
                signature[name] = POINTER[value.dtype]
            elif isinstance(value, int) and value == 1:
                constants[name] = 1
            else:
                signature[name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
                hints[place,] = [["tt.divisibility", 16]]
        signature |= dict.fromkeys(constants, "constexpr")
        source = ASTSource(call.kernel, signature, constants, hints)
        done = triton.compile(source, target=GPUTarget("cuda", 90, 32))
        binary = tmp_path / "kernel.cubin"
        binary.write_bytes(done.asm["cubin"])
        return Compiled(done.asm["ptx"], _resources(binary))

    return compiled


def _resources(binary: Path) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(binary)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def check(call: Call, compiled: Compiled) -> None:
    """Asserts what every variant must have."""
    name = call.kernel.__name__
    assert re.search(r"REG:\d+", compiled.resources), compiled.resources
    assert "STACK:0 " in compiled.resources, f"{name} spills: {compiled.resources}"
    assert "LOCAL:0 " in compiled.resources, f"{name} spills: {compiled.resources}"
    assert not re.search(r"\b(atom|red)\.", compiled.ptx), f"{name} adds in no fixed order"
    if name in OVER_TENSOR:
        check_width(call, compiled.ptx)


def check_width(call: Call, ptx: str) -> None:
    """Asserts that the tensor is read and written 16 bytes at a time.

    What is narrower is one value per channel of a tile: shift, delta, rstd, c1 and c2, gathered by
    group, gamma and beta, and the sums; at most as many as a thread has channels, each.
    """
    name = call.kernel.__name__
    wide = {"moments": 2, "normalize": 1, "sums": 2, "derivative": 2}[name]
    wide += call.constants.get("add", 0)
    assert len(re.findall(r"ld\.global\.v4\.b32", ptx)) >= wide, f"{name} reads narrowly"
    size = call.arguments[0].element_size()
    narrow = re.findall(rf"ld\.global\.b{8 * size}\b", ptx)
    channels_of_thread = 16 // size
    gathered = {"moments": 1, "normalize": 5, "sums": 5, "derivative": 7}[name]
    assert len(narrow) <= gathered * channels_of_thread, f"{name} reads single elements"
    stores = {"moments": 0, "normalize": 1, "sums": call.constants.get("add", 0), "derivative": 1}
    assert len(re.findall(r"st\.global\.v4\.b32", ptx)) >= stores[name], f"{name} writes narrowly"
    if size == 2:
        assert not re.search(r"st\.global\.(v2\.)?b16", ptx), f"{name} writes single elements"


@pytest.mark.slow
@pytest.mark.parametrize("add", [False, True])
def test_the_kernels_compile_read_wide_and_do_not_spill(
    add: bool, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calls(monkeypatch, (4, 256, 16, 56, 56), add=add)
    assert len(made) == 6
    for call in made:
        if add and call.kernel.__name__ in ("moments", "statistics", "coefficients"):
            continue  # the same without the addition
        compiled = build(call)
        check(call, compiled)
        if call.kernel.__name__ in ("normalize", "derivative"):
            assert re.search(r"cvt\.rn\.bf16x2\.f32", compiled.ptx)  # to nearest, not cut off


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(1, 64, 1, 1, 1), (1, 20, 1, 1, 3), (3, 320, 1, 1, 3)], ids=str)
def test_small_and_odd_shapes_compile(
    shape: tuple[int, ...], build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    for over_batch in (False, True):
        groups = shape[1] if over_batch else 4
        for call in calls(monkeypatch, shape, groups=groups, add=True, over_batch=over_batch):
            assert "STACK:0 " in build(call).resources


@pytest.mark.slow
@pytest.mark.parametrize("dtype", POINTER)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_variant_compiles(
    shape: tuple[int, ...], dtype: torch.dtype, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = set()
    for over_batch in (False, True):
        groups = shape[1] if over_batch else 32
        for relu, add, fixed in (
            *[(False, False, False), (True, False, False), (True, True, False)],
            *[(False, True, False), (True, True, True)],
        ):
            options = {"relu": relu, "add": add, "fixed": fixed, "over_batch": over_batch}
            for call in calls(monkeypatch, shape, dtype, groups=groups, **options):
                key = call.kernel.__name__, tuple(sorted(call.constants.items()))
                if key not in done:
                    check(call, build(call))
                    done.add(key)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("groups", [1, 32, 64])
def test_every_position_is_in_one_chunk_and_a_gpu_is_filled(
    shape: tuple[int, ...], groups: int
) -> None:
    samples, channels, *sizes = shape
    cut = launch.tiling(samples, math.prod(sizes), channels, groups)
    assert (cut.chunks - 1) * cut.chunk < cut.positions <= cut.chunks * cut.chunk
    assert cut.chunk % cut.tile_rows == 0
    assert cut.tile_rows * cut.tile_channels == launch.TILE
    for rows in (cut.chunk, cut.step):
        assert math.prod(cut.grid(rows)) >= 3 * 132  # multiprocessors of an H200
    partial = 2 * 4 * samples * cut.chunks * channels
    assert partial <= 0.14 * 2 * math.prod(shape)  # bytes beside those of x in bfloat16
    merged = cut.merging
    assert cut.merging_programs * merged["tile_groups"] >= groups
    assert merged["tile_width"] >= channels // groups
