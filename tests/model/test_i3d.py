"""The I3D ResNet: its sizes, its pools, its head, and what it must not depend on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from tests.model.named_weights import clip, named_weights
from videogn.model.i3d import (
    ARCHS,
    Bottleneck3d,
    I3DResNet,
    complete_fingerprint,
    create_model,
    max_pool_frames,
    max_pool_pixels,
)
from videogn.model.norm import NormKind, norm_factory

THIN_GN = norm_factory("gn", num_groups=4)


def create_meta(*args: Any, **options: Any) -> I3DResNet:
    with torch.device("meta"):
        return create_model(*args, **options)


def create_filled(*args: Any, **options: Any) -> I3DResNet:
    """Returns a network in eval mode, filled by name; thin and small unless told otherwise."""
    small: dict[str, Any] = {"num_frames": 16, "crop_size": 64, "num_classes": 5, "width": 8}
    model = create_meta(*args, **{"norm": THIN_GN, **small, **options})
    model.load_state_dict(named_weights(model.state_dict()), assign=True)
    return model.eval()


def num_parameters(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# Size


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_i3d_r50_has_28_043_472_parameters(norm: str) -> None:
    assert num_parameters(create_meta("i3d_r50", norm=norm)) == 28_043_472
    assert num_parameters(create_meta("i3d_r50_8x8", norm=norm)) == 28_043_472


@pytest.mark.parametrize(("depth", "arch"), [(50, "i3d_r50"), (101, "i3d_r101")])
def test_parameters_are_torchvisions_and_the_temporal_kernels(depth: int, arch: str) -> None:
    with torch.device("meta"):
        image = torchvision.models.get_model(f"resnet{depth}", num_classes=400)
    extra = 64 * 3 * 7 * 7 * (5 - 1)
    # Every block of layer1, every other of the rest: from the first one, in layer4 from the second.
    for stage, first, step in ((1, 0, 1), (2, 0, 2), (3, 0, 2), (4, 1, 2)):
        for block in list(image.get_submodule(f"layer{stage}"))[first::step]:  # type: ignore[arg-type]
            extra += block.conv1.in_channels * block.conv1.out_channels * (3 - 1)
    assert num_parameters(create_meta(arch)) == num_parameters(image) + extra


@pytest.mark.parametrize(("norm", "tensors"), [("bn", 267), ("gn", 161)])
def test_state_dict_has_as_many_tensors_as_torchvisions(norm: str, tensors: int) -> None:
    names = create_meta("i3d_r50", norm=norm).state_dict()
    assert sum(not name.endswith("num_batches_tracked") for name in names) == tensors


@pytest.mark.parametrize(
    ("num_frames", "padding", "gflop"),
    [(32, 0, 65.66), (64, 0, 131.32), (32, 1, 66.26), (64, 1, 132.51)],
)
def test_cost_of_a_clip_at_224_pixels(num_frames: int, padding: int, gflop: float) -> None:
    model = create_meta("i3d_r50", num_frames=num_frames, stem_pool_padding=padding).eval()
    with FlopCounterMode(display=False) as counter:
        model(torch.empty(1, 3, num_frames, 224, 224, device="meta"))
    assert counter.get_total_flops() / 1e9 == pytest.approx(gflop, abs=0.01)


# Shapes


def shapes_seen(model: nn.Module, clips: Tensor) -> dict[str, tuple[int, ...]]:
    """Returns (C, T, H, W) of what each named module receives ("> name") and gives ("name")."""
    seen: dict[str, tuple[int, ...]] = {}

    def hook(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            seen[f"> {name}"], seen[name] = tuple(inputs[0].shape[1:]), tuple(output.shape[1:])

        return note

    for name, module in model.named_modules():
        module.register_forward_hook(hook(name))
    model(clips)
    return seen


@pytest.mark.parametrize(
    ("num_frames", "side", "stem", "pool1", "layer2", "layer3", "layer4"),
    [
        (32, 224, 112, 55, 28, 14, 7),
        (64, 224, 112, 55, 28, 14, 7),
        (32, 256, 128, 63, 32, 16, 8),
    ],
)
def test_layer_sizes_are_those_of_video_nonlocal_net(
    num_frames: int, side: int, stem: int, pool1: int, layer2: int, layer3: int, layer4: int
) -> None:
    model = create_meta("i3d_r50", num_frames=num_frames).eval()
    seen = shapes_seen(model, torch.empty(1, 3, num_frames, side, side, device="meta"))
    t = num_frames
    assert {name: shape for name, shape in seen.items() if "." not in name and "layer" in name} == {
        "> layer1": (64, t // 4, pool1, pool1),
        "layer1": (256, t // 4, pool1, pool1),
        "> layer2": (256, t // 8, pool1, pool1),
        "layer2": (512, t // 8, layer2, layer2),
        "> layer3": (512, t // 8, layer2, layer2),
        "layer3": (1024, t // 8, layer3, layer3),
        "> layer4": (1024, t // 8, layer3, layer3),
        "layer4": (2048, t // 8, layer4, layer4),
    }
    assert seen["conv1"] == (64, t // 2, stem, stem)
    assert seen["layer2.0.conv1"] == (128, t // 8, pool1, pool1)  # the stride is in the 3x3
    assert seen["layer2.0.conv2"] == (128, t // 8, layer2, layer2)


def test_temporal_kernels_are_those_of_video_nonlocal_net() -> None:
    model = create_meta("i3d_r50")
    kernels = {
        name: module.kernel_size[0]
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv3d) and module.kernel_size[0] > 1
    }
    assert kernels == {
        "conv1": 5,
        **{f"layer1.{i}.conv1": 3 for i in (0, 1, 2)},
        **{f"layer2.{i}.conv1": 3 for i in (0, 2)},
        **{f"layer3.{i}.conv1": 3 for i in (0, 2, 4)},
        "layer4.1.conv1": 3,
    }


@cache
def net_for_shapes(arch: str, padding: int, image: bool) -> I3DResNet:
    """Without norms, which no shape depends on and which take most of the time."""
    variant = ARCHS[arch].image() if image else ARCHS[arch]
    with torch.device("meta"):
        return I3DResNet(
            variant,
            lambda channels: nn.Identity(),
            num_classes=2,
            num_frames=64,
            crop_size=224,
            width=8,
            stem_pool_padding=padding,
            zero_init_residual=False,
        ).eval()


@settings(max_examples=30, deadline=None)
@given(
    arch=st.sampled_from(sorted(ARCHS)),
    padding=st.integers(0, 1),
    image=st.booleans(),
    size=st.tuples(st.integers(8, 70), st.integers(17, 350), st.integers(17, 350)),
)
def test_feature_size_is_that_of_the_real_map(
    arch: str, padding: int, image: bool, size: tuple[int, int, int]
) -> None:
    model = net_for_shapes(arch, padding, image)
    features = model.forward_features(torch.empty(1, 3, *size, device="meta"))
    assert tuple(features.shape[2:]) == model.feature_size(*size)


@pytest.mark.parametrize("arch", ["i3d_r50", "i3d_r14"])
@pytest.mark.parametrize("padding", [0, 1])
def test_feature_size_rounds_as_the_network_does(arch: str, padding: int) -> None:
    model = net_for_shapes(arch, padding, image=False)
    for i in range(16):  # every remainder of frames by 8 and of pixels by 32
        size = (8 + i, 64 + 2 * i, 65 + 2 * i)
        features = model.forward_features(torch.empty(1, 3, *size, device="meta"))
        assert tuple(features.shape[2:]) == model.feature_size(*size)


def test_a_training_clip_too_small_for_the_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"4 frames at 224 pixels"):
        create_meta("i3d_r50", num_frames=4)
    with pytest.raises(ValueError, match=r"32 frames at 2 pixels"):
        create_meta("i3d_r50", num_frames=32, crop_size=2)


def test_an_unknown_arch_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'i3d_r18'.*i3d_r50"):
        create_model("i3d_r18")


def test_stride_1x1_halves_space_in_the_first_convolution_of_a_stage() -> None:
    model = create_meta("i3d_r50_stride1x1")
    strides = {
        name: module.stride
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv3d) and module.stride != (1, 1, 1)
    }
    halves = (1, 2, 2)
    assert strides == {
        "conv1": (2, 2, 2),
        **{f"layer{i}.0.{conv}": halves for i in (2, 3, 4) for conv in ("conv1", "downsample.0")},
    }
    assert model.arch.image().stride_1x1


@pytest.mark.parametrize("kind", ["bn", "frozen_bn"])
def test_zero_init_residual_leaves_a_gamma_that_cannot_move(kind: NormKind) -> None:
    model = create_model("i3d_r14", norm=kind, width=8, zero_init_residual=True)
    gammas = [m.norm3.weight for m in model.modules() if isinstance(m, Bottleneck3d)]
    assert all(bool(gamma.any()) == (kind == "frozen_bn") for gamma in gammas)  # type: ignore[operator]


@pytest.mark.parametrize(("stride", "kernel_t"), [(1, 1), (2, 3)])
def test_bottleneck_keeps_time_and_divides_space(stride: int, kernel_t: int) -> None:
    block = Bottleneck3d(12, 4, norm=THIN_GN, kernel_t=kernel_t, stride=stride)
    assert block(torch.randn(2, 12, 3, 8, 6)).shape == (2, 16, 3, 8 // stride, 6 // stride)


@pytest.mark.parametrize("zero", [True, False])
def test_zero_init_residual_starts_each_block_as_its_shortcut(zero: bool) -> None:
    torch.manual_seed(0)
    model = create_model("i3d_r14", norm=THIN_GN, width=8, zero_init_residual=zero)
    blocks = [m for m in model.modules() if isinstance(m, Bottleneck3d)]
    assert len(blocks) == 4
    x = torch.randn(2, 8, 4, 6, 6)
    for block in blocks:
        gammas = [norm.weight for norm in (block.norm1, block.norm2, block.norm3)]
        assert [bool(gamma.any()) for gamma in gammas] == [True, True, not zero]  # type: ignore[operator]
        assert block.downsample is not None
        shortcut = block.downsample(x).relu()
        assert torch.equal(block(x), shortcut) == zero
        x = shortcut


# Pools


def relu_noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).relu()


def stem_pool(x: Tensor, frames: int, padding: int) -> Tensor:
    return max_pool_pixels(max_pool_frames(x, frames), kernel=3, stride=2, padding=padding)


def torch_stem_pool(x: Tensor, frames: int, padding: int) -> Tensor:
    return F.max_pool3d(x, (frames, 3, 3), (frames, 2, 2), (0, padding, padding))


FORMATS = pytest.mark.parametrize(
    "memory_format", [torch.contiguous_format, torch.channels_last_3d]
)
STEM_POOLS = pytest.mark.parametrize("padding", [0, 1])
FRAMES = pytest.mark.parametrize("frames", [1, 2])


@FORMATS
@STEM_POOLS
@FRAMES
@pytest.mark.parametrize("size", [(8, 9, 9), (7, 8, 11), (2, 3, 3)])
def test_stem_pool_is_max_pool3d(
    size: tuple[int, int, int], frames: int, padding: int, memory_format: torch.memory_format
) -> None:
    x = relu_noise(2, 5, *size).contiguous(memory_format=memory_format)
    y = stem_pool(x, frames, padding)
    assert torch.equal(y, torch_stem_pool(x, frames, padding))
    assert y.is_contiguous(memory_format=memory_format)


@FORMATS
@pytest.mark.parametrize("num_frames", [8, 7, 3])
@pytest.mark.parametrize(("kernel", "stride"), [(1, 2), (3, 2), (2, 3)])
def test_pool_of_frames_is_max_pool3d_with_any_stride(
    kernel: int, stride: int, num_frames: int, memory_format: torch.memory_format
) -> None:
    x = relu_noise(2, 5, num_frames, 6, 4).contiguous(memory_format=memory_format)
    y = max_pool_frames(x, kernel, stride)
    assert torch.equal(y, F.max_pool3d(x, (kernel, 1, 1), (stride, 1, 1)))


@FORMATS
@pytest.mark.parametrize("num_frames", [8, 7, 2])
def test_pool2_is_max_pool3d(num_frames: int, memory_format: torch.memory_format) -> None:
    x = relu_noise(2, 5, num_frames, 6, 4).contiguous(memory_format=memory_format)
    y = max_pool_frames(x, 2)
    assert torch.equal(y, F.max_pool3d(x, (2, 1, 1)))
    assert y.is_contiguous(memory_format=memory_format)


@FORMATS
@STEM_POOLS
def test_pools_carry_nan_and_infinity_on(padding: int, memory_format: torch.memory_format) -> None:
    x = relu_noise(2, 3, 6, 9, 9)
    x[0, 0, 2, 4, 4] = torch.nan  # the first and the second frame of a pair
    x[0, 1, 3, 0, 0] = torch.nan
    x[1, 2, 5, 8, 7] = torch.inf
    x[1, 0, 0:2] = -torch.inf
    x = x.contiguous(memory_format=memory_format)
    expected = torch_stem_pool(x, 2, padding)
    assert expected.isnan().any()
    assert expected.isinf().any()
    torch.testing.assert_close(stem_pool(x, 2, padding), expected, rtol=0, atol=0, equal_nan=True)


@FORMATS
@STEM_POOLS
@FRAMES
@pytest.mark.parametrize("relu", [True, False])
def test_pool_gradients_are_max_pool3ds(
    relu: bool, frames: int, padding: int, memory_format: torch.memory_format
) -> None:
    random = torch.Generator().manual_seed(1)
    # A permutation has no ties. Behind a ReLU half of it ties at 0, where no gradient passes.
    x = torch.randperm(2 * 5 * 7 * 9 * 10, generator=random).float().view(2, 5, 7, 9, 10)
    x = (x - x.median()).contiguous(memory_format=memory_format).requires_grad_()
    gradients = []
    for pool in (stem_pool, torch_stem_pool):
        y = pool(x.relu() if relu else x, frames, padding)
        random = torch.Generator().manual_seed(2)
        upstream = torch.randint(-9, 10, y.shape, generator=random).float()  # sums are exact
        gradients += torch.autograd.grad(y, x, upstream)
    assert torch.equal(*gradients)


@pytest.fixture
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
        ),
    ],
)
def test_pools_run_under_deterministic_algorithms(device: str) -> None:
    x = relu_noise(2, 4, 4, 9, 9).to(device).requires_grad_()
    stem_pool(x, 2, 0).sum().backward()
    assert x.grad is not None


class OperatorNames(TorchDispatchMode):
    """Collects the names of the operators that run inside it."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_3d_max_pool_runs_forward_or_backward() -> None:
    """Its backward has no deterministic CUDA kernel, which a CPU run cannot show otherwise."""
    model = create_filled("i3d_r50")
    with OperatorNames() as operators:
        model(clip(1, 16, 64)).sum().backward()
    assert "max_pool2d_with_indices_backward" in operators.names
    assert not [name for name in operators.names if "max_pool3d" in name]


# Head


def test_one_position_at_the_training_size_and_more_above_it() -> None:
    model = create_filled("i3d_r14", num_frames=8, crop_size=64)
    assert model.window == (4, 2, 2)
    for size, positions in {
        (8, 64, 64): 1,
        (8, 64, 128): 1 * 1 * 3,
        (8, 96, 128): 1 * 2 * 3,
        (12, 96, 128): 3 * 2 * 3,
    }.items():
        assert model.forward_positions(clip(1, size[0], *size[1:])).shape == (1, positions, 5)


@pytest.mark.parametrize("size", [(16, 64, 64), (24, 96, 128)])
def test_each_position_classifies_the_mean_of_its_window(size: tuple[int, int, int]) -> None:
    model, clips = create_filled("i3d_r50").double(), clip(1, *size).double()
    with torch.inference_mode():
        features = model.forward_features(clips)
        windows = features
        for axis, length in zip((2, 3, 4), model.window, strict=True):
            windows = windows.unfold(axis, length, 1)
        means = windows.mean((5, 6, 7)).flatten(2).transpose(1, 2)  # (N, P, C)
        logits = means @ model.fc.weight.T + model.fc.bias
        torch.testing.assert_close(model.forward_positions(clips), logits)
        torch.testing.assert_close(model(clips), logits.mean(1))
        expected = logits.softmax(-1).mean(1).float()
        torch.testing.assert_close(model.probs(clips), expected)
    if logits.shape[1] > 1:  # the two means differ, so that one does not stand for the other
        assert (expected - logits.mean(1).softmax(-1)).abs().max() > 1e-6


@pytest.mark.parametrize("side", [64, 96])
def test_probabilities_are_float32_and_sum_to_one(side: int) -> None:
    model = create_filled("i3d_r14")
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        probs = model.probs(clip(3, 16, side))
    assert (probs.dtype, probs.shape) == (torch.float32, (3, 5))
    torch.testing.assert_close(probs.sum(1), torch.ones(3), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "size",
    [
        (8, 64, 64),
        (16, 32, 64),
        (16, 64, 32),
        (8, 96, 96),
        (2, 64, 64),
        (16, 4, 64),
    ],
)
def test_a_clip_smaller_than_the_training_clip_is_refused(size: tuple[int, int, int]) -> None:
    model = create_filled("i3d_r50")
    wanted = f"{size[0]}x{size[1]}x{size[2]} .* smaller than the 16x64x64"
    with pytest.raises(ValueError, match=wanted):
        model(clip(1, *size))


def test_a_whole_frame_is_evaluated_fully_convolutionally() -> None:
    model = create_filled("i3d_r50", crop_size=224)
    clips = clip(1, 16, 256, 340)
    with torch.inference_mode():
        assert model.forward_positions(clips).shape == (1, 1 * 2 * 5, 5)  # 8x11 map, 7x7 window
        assert model.probs(clips).shape == (1, 5)


def test_dropout_acts_in_training_alone() -> None:
    model, clips = create_filled("i3d_r14", dropout=0.9), clip(1, 16, 64)
    with torch.inference_mode():
        assert torch.equal(model(clips), model(clips))
        model.train()
        assert not torch.equal(model(clips), model(clips))


# What a clip's logits depend on


@pytest.mark.parametrize("norm", ["gn", "ln", "in"])
def test_logits_do_not_depend_on_the_batch_without_bn(norm: str) -> None:
    model = create_filled("i3d_r50", norm=norm, width=32, dropout=0.0).double().train()
    clips = clip(3, 16, 64).double()  # in float32 a convolution rounds by the size of its batch
    with torch.inference_mode():
        together, alone = model(clips), torch.cat([model(one) for one in clips.split(1)])
    assert together.std() > 0.1
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_logits_depend_on_the_batch_with_bn_in_training() -> None:
    model = create_filled("i3d_r50", norm="bn", dropout=0.0).train()
    clips = clip(4, 16, 64)
    with torch.inference_mode():
        difference = (model(clips)[:1] - model(clips[:1])).abs().max()
    assert difference > 1e-2


def test_logits_do_not_depend_on_the_memory_format() -> None:
    model, clips = create_filled("i3d_r50", norm="bn"), clip(2, 16, 64)
    with torch.inference_mode():
        expected = model(clips)
        model.to(memory_format=torch.channels_last_3d)
        logits = model(clips.contiguous(memory_format=torch.channels_last_3d))
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


# Fingerprint


def thin(**options: Any) -> I3DResNet:
    return create_meta("i3d_r50", **options)


def test_fingerprint_is_plain_values() -> None:
    for norm in ("gn", "bn"):
        fingerprint = thin(norm=norm).fingerprint()
        assert json.loads(json.dumps(fingerprint)) == fingerprint


def test_fingerprint_is_the_same_for_the_same_network() -> None:
    assert thin().fingerprint() == thin(zero_init_residual=False).fingerprint()


@pytest.mark.parametrize(
    "change",
    [
        {"norm": norm_factory("gn", num_groups=8)},
        {"norm": norm_factory("gn", channels_per_group=16)},
        {"norm": norm_factory("gn", eps=1e-6)},
        {"norm": "ln"},
        {"norm": "in"},
        {"norm": "bn"},
        {"stem_pool_padding": 1},
        {"num_frames": 32},
        {"crop_size": 256},
        {"num_classes": 10},
        {"width": 128},
    ],
    ids=str,
)
def test_fingerprint_tells_what_a_state_dict_does_not(change: dict[str, Any]) -> None:
    assert thin(**change).fingerprint() != thin().fingerprint()


def test_fingerprint_tells_architectures_and_eps_of_bn() -> None:
    prints = [create_meta(arch, norm="bn").fingerprint() for arch in sorted(ARCHS)]
    prints.append(create_meta("i3d_r50", norm=norm_factory("bn", eps=1e-3)).fingerprint())
    assert len({json.dumps(p) for p in prints}) == len(prints)


def test_a_fingerprint_from_before_the_variants_is_complete_as_the_network_it_was_of() -> None:
    for arch in ("i3d_r50", "i3d_r101", "i3d_r50_8x8", "i3d_r14"):
        fingerprint = create_meta(arch).fingerprint()
        then = {k: v for k, v in fingerprint.items() if k not in ("pool1_stride_t", "stride_1x1")}
        assert complete_fingerprint(then) == complete_fingerprint(fingerprint) == fingerprint
    variant = create_meta("i3d_r50_stride1x1").fingerprint()
    assert complete_fingerprint(variant) == variant
    foreign = {"eps": 1e-5, "stride_1x1": True}
    assert complete_fingerprint(foreign) == foreign
