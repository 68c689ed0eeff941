"""Inflation: the arithmetic, its strictness, and what it means for a still clip."""

from __future__ import annotations

import re

import pytest
import torch
import torch.nn.functional as F
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.model.named_weights import clip, named_weights
from videogn.errors import WeightsMismatchError
from videogn.model.i3d import ARCHS, I3DResNet, create_model
from videogn.model.inflate import INFLATIONS, inflate_kernel, inflate_state_dict
from videogn.model.norm import norm_factory


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_mean_repeats_the_kernel_and_divides() -> None:
    weight = normal(4, 3, 7, 7)
    assert torch.equal(inflate_kernel(weight, 5), torch.stack([weight / 5] * 5, dim=2))


def test_center_puts_the_kernel_in_the_middle_frame() -> None:
    weight = normal(4, 3, 7, 7)
    zero = torch.zeros_like(weight)
    expected = torch.stack([zero, zero, weight, zero, zero], dim=2)
    assert torch.equal(inflate_kernel(weight, 5, "center"), expected)


@pytest.mark.parametrize("how", INFLATIONS)
@settings(max_examples=20, deadline=None)
@given(size_t=st.integers(1, 8), side=st.integers(1, 4), half=st.booleans())
def test_inflated_kernel_keeps_sum_shape_and_dtype(
    how: str, size_t: int, side: int, half: bool
) -> None:
    weight = normal(2, 3, side, side).to(torch.float16 if half else torch.float64)
    kernel = inflate_kernel(weight, size_t, how)  # type: ignore[arg-type]
    assert (kernel.shape, kernel.dtype) == ((2, 3, size_t, side, side), weight.dtype)
    torch.testing.assert_close(kernel.double().sum(2), weight.double(), rtol=4e-3, atol=1e-6)


def test_an_unknown_inflation_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'centre'.*mean, center"):
        inflate_kernel(normal(1, 1, 1, 1), 3, "centre")  # type: ignore[arg-type]


@pytest.mark.parametrize("size_t", [3, 5])
@pytest.mark.parametrize("how", INFLATIONS)
def test_inflated_conv_on_a_still_clip_is_the_2d_conv(how: str, size_t: int) -> None:
    weight, image = normal(8, 3, 7, 7).double(), normal(2, 3, 20, 20, seed=1).double()
    still = image.unsqueeze(2).expand(-1, -1, 9, -1, -1)
    half = size_t // 2
    kernel = inflate_kernel(weight, size_t, how)  # type: ignore[arg-type]
    y = F.conv3d(still, kernel, stride=(1, 2, 2), padding=(half, 3, 3))
    expected = F.conv2d(image, weight, stride=2, padding=3).unsqueeze(2).expand_as(y)
    torch.testing.assert_close(y[:, :, half:-half], expected[:, :, half:-half])
    if how == "center":
        torch.testing.assert_close(y, expected)
    else:  # the zero padding takes away the part of the kernel that hangs over the end
        torch.testing.assert_close(y[:, :, 0], expected[:, :, 0] * (size_t - half) / size_t)


def test_a_state_dict_is_inflated_where_the_target_has_time_and_kept_elsewhere() -> None:
    source = {
        "a": normal(4, 3, 3, 3),  # 2-D kernel -> 5 frames
        "b": normal(4, 4, 1, 1, seed=1).half(),  # 2-D kernel -> 1 frame
        "c": normal(4, 4, 3, 1, 1, seed=2),  # 3-D already
        "d": normal(4, seed=3),
    }
    target = {
        "a": torch.empty(4, 3, 5, 3, 3),
        "b": torch.empty(4, 4, 1, 1, 1),
        "c": torch.empty(4, 4, 3, 1, 1),
        "d": torch.empty(4),
    }
    inflated = inflate_state_dict(source, target, "center")
    assert set(inflated) == set(target)
    assert all(tensor.dtype == torch.float32 for tensor in inflated.values())
    assert torch.equal(inflated["a"], inflate_kernel(source["a"], 5, "center"))
    assert torch.equal(inflated["b"], source["b"].float().unsqueeze(2))
    assert torch.equal(inflated["c"], source["c"])
    assert torch.equal(inflated["d"], source["d"])


@pytest.mark.parametrize("how", INFLATIONS)
def test_a_5d_source_of_one_frame_is_inflated_like_a_2d_one(how: str) -> None:
    weight = normal(4, 3, 3, 3)
    for size_t in (1, 3, 5):
        target = {"conv1.weight": torch.empty(4, 3, size_t, 3, 3)}
        flat, deep = (
            inflate_state_dict({"conv1.weight": w}, target, how)["conv1.weight"]  # type: ignore[arg-type]
            for w in (weight, weight.unsqueeze(2))
        )
        assert torch.equal(flat, deep)
        assert torch.equal(flat, inflate_kernel(weight, size_t, how))  # type: ignore[arg-type]


def test_every_missing_unused_and_misshaped_tensor_is_listed() -> None:
    source = {
        "fits": torch.zeros(4),
        "extra1": torch.zeros(1),
        "extra2": torch.zeros(1),
        "wide": torch.zeros(4, 3, 3, 3),
        "long": torch.zeros(4, 3, 3, 1, 1),
        "flat": torch.zeros(5),
    }
    target = {
        "fits": torch.zeros(4),
        "gone1": torch.zeros(1),
        "gone2": torch.zeros(1),
        "wide": torch.zeros(4, 3, 5, 7, 7),
        "long": torch.zeros(4, 3, 5, 1, 1),
        "flat": torch.zeros(4),
    }
    with pytest.raises(WeightsMismatchError) as caught:
        inflate_state_dict(source, target)
    assert str(caught.value).splitlines() == [
        "7 tensors do not fit the network:",
        "  missing in the file: gone1",
        "  missing in the file: gone2",
        "  unused: extra1",
        "  unused: extra2",
        "  wide: (4, 3, 5, 3, 3) in the file, (4, 3, 5, 7, 7) here",
        "  long: (4, 3, 3, 1, 1) in the file, (4, 3, 5, 1, 1) here",
        "  flat: (5,) in the file, (4,) here",
    ]


def test_inflating_again_changes_nothing() -> None:
    model = create_model("i3d_r14", norm="bn", width=8, num_classes=3)
    state = model.state_dict()
    again = inflate_state_dict(state, state, "mean")
    assert all(torch.equal(again[name], tensor) for name, tensor in state.items())


def torchvision_resnet50(norm: str) -> tuple[nn.Module, dict[str, Tensor]]:
    """Returns torchvision's network in eval mode and its weights under our names."""

    def rename(name: str) -> str:
        return re.sub(r"\bbn(\d)", r"norm\1", name)

    layer = None if norm == "bn" else lambda channels: nn.GroupNorm(32, channels)
    with torch.device("meta"):
        resnet = torchvision.models.resnet50(num_classes=400, norm_layer=layer)
    names = {name: rename(name) for name in resnet.state_dict()}
    weights = named_weights({names[name]: t for name, t in resnet.state_dict().items()})
    resnet.load_state_dict({name: weights[ours] for name, ours in names.items()}, assign=True)
    kept = {name: t for name, t in weights.items() if not name.endswith("num_batches_tracked")}
    return resnet.eval(), kept


def fillable(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    return {name: t for name, t in state.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_center_inflated_i3d_on_a_still_clip_is_torchvisions_resnet50(norm: str) -> None:
    resnet, weights = torchvision_resnet50(norm)
    with torch.device("meta"):
        model = create_model(
            norm=norm,  # type: ignore[arg-type]
            num_frames=16,
            crop_size=64,
            stem_pool_padding=1,
        ).eval()
    inflated = inflate_state_dict(weights, fillable(model), "center")
    keys = model.load_state_dict(inflated, strict=False, assign=True)
    assert not keys.unexpected_keys
    assert all(key.endswith("num_batches_tracked") for key in keys.missing_keys)
    images = clip(2, 1, 64)
    with torch.inference_mode():
        expected = resnet(images.squeeze(2))
        logits = model(images.expand(-1, -1, 16, -1, -1))
    assert expected.std() > 0.1
    torch.testing.assert_close(logits, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("norm", ["bn", "gn"])
def test_the_image_network_is_torchvisions_resnet50(norm: str) -> None:
    resnet, weights = torchvision_resnet50(norm)
    with torch.device("meta"):
        model = I3DResNet(
            ARCHS["i3d_r50"].image(),
            norm_factory(norm),  # type: ignore[arg-type]
            num_classes=400,
            num_frames=1,
            crop_size=64,
            stem_pool_padding=1,
        ).eval()
    model.load_state_dict(inflate_state_dict(weights, fillable(model)), strict=False, assign=True)
    images = clip(2, 1, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model(images), resnet(images.squeeze(2)), rtol=0, atol=2e-5)
