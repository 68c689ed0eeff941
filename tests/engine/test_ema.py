"""The average of the weights, against its definition written out."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from videogn.engine.ema import Ema


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    layer = nn.BatchNorm3d(3)
    with torch.no_grad():
        for buffer in (layer.running_mean, layer.running_var):
            assert buffer is not None
            buffer.uniform_()
    return nn.Sequential(nn.Conv3d(2, 3, 1), layer)


def put(model: nn.Module, other: nn.Module) -> None:
    model.load_state_dict(other.state_dict())


@pytest.mark.parametrize(("decay", "expected"), [(0.1, [0.1, 0.1, 0.1]), (0.9, [2 / 11, 3 / 12])])
def test_it_follows_weights_and_statistics_with_the_warm_up(
    decay: float, expected: list[float]
) -> None:
    model = network(0)
    ema = Ema(model, decay)
    shadow = {name: value.double() for name, value in model.state_dict().items()}
    for step, d in enumerate(expected, 1):
        put(model, network(step))
        ema.update(model, step)
        for name, value in model.state_dict().items():
            shadow[name] = d * shadow[name] + (1 - d) * value.double()
    for name, value in ema.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), shadow[name], rtol=1e-6, atol=1e-7)


def test_counts_are_copied() -> None:
    model = network(0)
    ema = Ema(model, 0.9)
    count = model[1].num_batches_tracked  # type: ignore[index]
    count.fill_(7)
    ema.update(model, 1)
    assert ema.state_dict()["1.num_batches_tracked"] == 7


def test_in_its_place_the_network_holds_the_average_and_gets_its_own_back() -> None:
    model = network(0)
    ema = Ema(model, 0.9)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    put(model, network(1))
    own = {name: value.clone() for name, value in model.state_dict().items()}
    optimizer_sees = model[0].weight  # type: ignore[index]

    def measure() -> None:
        for name, value in model.state_dict().items():
            assert torch.equal(value, first[name]), name
        model[1].running_mean.fill_(5)  # type: ignore[index]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), ema.in_place_of(model):
        measure()
    for name, value in model.state_dict().items():
        assert torch.equal(value, own[name]), name
    assert model[0].weight is optimizer_sees  # type: ignore[index]
    assert (ema.state_dict()["1.running_mean"] == 5).all()


def test_a_restored_one_goes_on_to_the_bit() -> None:
    model = network(0)
    ema = Ema(model, 0.99)
    put(model, network(1))
    ema.update(model, 1)
    stored = {name: value.clone() for name, value in ema.state_dict().items()}
    other = Ema(network(5), 0.99)
    other.load_state_dict(stored)
    put(model, network(2))
    for one in (ema, other):
        one.update(model, 2)
    assert all(torch.equal(v, other.state_dict()[k]) for k, v in ema.state_dict().items())
