"""Percentiles of activations: against numpy, of the right values, and leaving no trace."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from videogn.engine import percentiles
from videogn.engine.percentiles import PERCENTS, Percentiles, activation_percentiles
from videogn.model import create_model, norm_factory
from videogn.model.norm import named_norms


def batches(*sizes: int) -> list[SimpleNamespace]:
    torch.manual_seed(1)
    return [SimpleNamespace(clips=torch.randn(size, 3, 4, 32, 32)) for size in sizes]


def thin(kind: str) -> nn.Module:
    norm = norm_factory("gn", num_groups=4) if kind == "gn" else norm_factory("bn")
    sizes = {"num_frames": 4, "crop_size": 32, "num_classes": 3, "width": 8}
    return create_model("i3d_r14", norm=norm, **sizes)


class Small(nn.Module):
    """A convolution and a norm, whose own input and output can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.norm(self.conv(x)))


def test_they_are_numpys_of_all_values_over_batches_before_the_relu() -> None:
    model, given = Small().eval(), batches(2, 3)
    found = activation_percentiles(model, {"norm": model.norm}, given, to_input=lambda x: x)
    entering = model.conv(torch.cat([batch.clips for batch in given])).detach()
    leaving = model.norm(entering).detach()
    np.testing.assert_allclose(
        np.array(found["norm"]["in"]), np.percentile(entering, PERCENTS), rtol=1e-5
    )
    np.testing.assert_allclose(
        np.array(found["norm"]["out"]), np.percentile(leaving, PERCENTS), rtol=1e-5
    )
    assert found["norm"]["out"][0] < -1  # type: ignore[operator] - what the ReLU would have cut


def test_a_large_map_is_sampled_the_same_way_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(percentiles, "_MOST", 20_000)
    model, given = Small(), batches(2)

    def found() -> list[float | None]:
        layers = {"norm": model.norm}
        return activation_percentiles(model, layers, given, to_input=lambda x: x)["norm"]["in"]

    entering = model.conv(given[0].clips).detach()
    shares = [float((entering < value).float().mean()) for value in found()]
    np.testing.assert_allclose(shares, np.array(PERCENTS) / 100, atol=0.02)
    assert found() == found()


def test_clips_count_the_same_however_they_are_dealt_into_batches(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(percentiles, "_MOST", 2000)
    model = Small()
    layers = {"norm": model.norm}
    together = batches(6)[0].clips * torch.tensor([1, 1, 1, 1, 1, 50.0]).view(6, 1, 1, 1, 1)

    def found(*sizes: int) -> Percentiles:
        given = [SimpleNamespace(clips=clips) for clips in together.split(sizes)]
        return activation_percentiles(model, layers, given, to_input=lambda x: x)

    for end in ("in", "out"):
        wanted, dealt = found(6)["norm"][end], found(3, 2, 1)["norm"][end]
        np.testing.assert_allclose(np.array(dealt), np.array(wanted), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["bn", "gn"])
def test_a_network_is_left_to_the_bit_as_it_was(kind: str) -> None:
    model = thin(kind).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    layers = named_norms(model)
    found = activation_percentiles(model, layers, batches(2), to_input=lambda x: x)
    assert list(found) == list(layers)
    assert len(found) == 1 + 4 * 4
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not any(layer._forward_pre_hooks for layer in layers.values())
    low, *_, high = found["norm1"]["out"]
    assert -5 < low < -1 < 1 < high < 5 or kind == "bn"  # type: ignore[operator] - it normalizes


def test_values_that_are_no_numbers_have_no_percentiles() -> None:
    model, given = Small(), batches(1)
    given[0].clips[0, 0, 0, 0, 0] = torch.nan
    found = activation_percentiles(model, {"norm": model.norm}, given, to_input=lambda x: x)
    assert found == {"norm": {"in": [None] * 4, "out": [None] * 4}}
