"""The rate by its formula, who decays by how much, and one SGD step written out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from videogn.engine.schedule import Schedule, parameter_groups
from videogn.model.i3d import create_model
from videogn.model.norm import norm_factory, norm_layers


def kinetics(global_batch: int) -> Schedule:
    return Schedule(
        num_samples=234_643,
        global_batch=global_batch,
        epochs=109.1,
        base_lr=0.01,
        base_batch=64,
        milestones=(40.9, 81.8),
    )


def test_the_paper_schedule_has_400k_iterations_of_64_clips() -> None:
    schedule = kinetics(64)
    assert schedule.total_steps == round(109.1 * 234_643 / 64)
    assert abs(schedule.total_steps - 400_000) < 50
    assert schedule.peak_lr == 0.01


def test_half_the_batch_takes_half_the_rate_and_twice_the_steps() -> None:
    whole, half = kinetics(64), kinetics(32)
    assert half.peak_lr == 0.005
    assert abs(half.total_steps - 2 * whole.total_steps) <= 1
    assert half.epoch(200) == whole.epoch(100)


@pytest.mark.parametrize("global_batch", [64, 32, 7])
def test_the_rate_drops_with_the_first_step_at_or_after_each_milestone(global_batch: int) -> None:
    schedule = kinetics(global_batch)
    peak = 0.01 * global_batch / 64
    for number, at in enumerate((40.9, 81.8)):
        first = math.ceil(at * 234_643 / global_batch)
        assert schedule.lr(first - 1) == pytest.approx(peak * 0.1**number, rel=1e-12)
        assert schedule.lr(first) == pytest.approx(peak * 0.1 ** (number + 1), rel=1e-12)
    assert schedule.lr(0) == pytest.approx(peak, rel=1e-12)


def test_a_milestone_on_a_step_counts_from_that_step() -> None:
    schedule = Schedule(10, 2, epochs=4, base_lr=1.0, base_batch=2, milestones=(1, 2.5), gamma=0.5)
    rates = [schedule.lr(step) for step in range(schedule.total_steps)]
    assert rates == [1.0] * 5 + [0.5] * 8 + [0.25] * 7


def test_warm_up_rises_linearly_and_reaches_the_peak() -> None:
    schedule = Schedule(100, 10, epochs=3, base_lr=0.4, base_batch=10, warmup_epochs=0.5)
    rates = [schedule.lr(step) for step in range(7)]
    assert rates == pytest.approx([0.08, 0.16, 0.24, 0.32, 0.4, 0.4, 0.4], rel=1e-12)


@settings(max_examples=200, deadline=None)
@given(
    num_samples=st.integers(1, 500),
    global_batch=st.integers(1, 64),
    warmup=st.floats(0.01, 5),
)
def test_the_rate_never_exceeds_its_peak(
    num_samples: int, global_batch: int, warmup: float
) -> None:
    schedule = Schedule(
        num_samples, global_batch, epochs=6, base_lr=1.0, base_batch=1, warmup_epochs=warmup
    )
    rates = [schedule.lr(step) for step in range(min(schedule.total_steps, 300))]
    assert max(rates) <= schedule.peak_lr * (1 + 1e-12)
    assert min(rates) > 0


def test_a_training_shorter_than_one_step_takes_one() -> None:
    assert Schedule(3, 64, epochs=0.5, base_lr=1.0, base_batch=64).total_steps == 1


def test_describe_shows_the_arithmetic() -> None:
    text = kinetics(32).describe()
    assert "lr 0.005 = 0.01 x 32 clips / 64" in text
    total = kinetics(32).total_steps
    assert f"{total} steps = 109.1 epochs x 234643 videos / 32 clips" in text


# Who decays


class EveryKind(nn.Module):
    """One layer of each kind of norm, and of what is none."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(3, 8, 1, bias=True)
        self.norms = nn.ModuleList(norm_factory(kind)(64) for kind in ("gn", "ln", "in", "bn"))
        self.norms.extend([nn.LayerNorm(8), nn.SyncBatchNorm(8), nn.BatchNorm2d(8)])
        self.norms.append(nn.InstanceNorm3d(8, affine=True))
        self.fc = nn.Linear(8, 5)


def test_gamma_and_beta_of_every_norm_and_nothing_else_decay_apart() -> None:
    model = EveryKind()
    other, norm = parameter_groups(
        model, weight_decay=0.1, weight_decay_norm=0.2, norms=norm_layers(model)
    )
    assert (other["weight_decay"], norm["weight_decay"]) == (0.1, 0.2)
    name_of = {id(p): name for name, p in model.named_parameters()}
    assert {name_of[id(p)] for p in other["params"]} == {
        "conv.weight",
        "conv.bias",
        "fc.weight",
        "fc.bias",
    }
    assert {name_of[id(p)] for p in norm["params"]} == {
        f"norms.{i}.{part}" for i in range(8) for part in ("weight", "bias")
    }


@pytest.mark.parametrize("kind", ["gn", "bn", "ln", "in"])
def test_each_parameter_of_the_network_is_in_exactly_one_group(kind: str) -> None:
    factory = norm_factory(kind, num_groups=4)  # type: ignore[arg-type]
    model = create_model(
        "i3d_r14", norm=factory, num_frames=4, crop_size=32, num_classes=3, width=8
    )
    groups = parameter_groups(
        model, weight_decay=1e-4, weight_decay_norm=0.0, norms=norm_layers(model)
    )
    ids = [id(p) for group in groups for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert len(set(ids)) == len(ids)
    names = {id(p): name for name, p in model.named_parameters()}
    in_norm = {names[id(p)] for p in groups[1]["params"]}
    assert all("norm" in name or "downsample.1" in name for name in in_norm)
    assert "fc.bias" not in in_norm


def test_three_nesterov_steps_follow_the_formula_and_a_new_rate_does_not_touch_the_buffer() -> None:
    """v = mu v + (g + wd p); p = p - lr (g + wd p + mu v): Caffe2's with SCALE_MOMENTUM."""
    mu, decay = 0.9, 1e-4
    weight = torch.randn(7, dtype=torch.float64)
    gradients = torch.randn(3, 7, dtype=torch.float64)
    parameter = nn.Parameter(weight.clone())
    optimizer = torch.optim.SGD(
        [{"params": [parameter], "weight_decay": decay}], lr=1.0, momentum=mu, nesterov=True
    )
    velocity = torch.zeros_like(weight)
    for gradient, lr in zip(gradients, (0.1, 0.1, 0.01), strict=True):
        optimizer.param_groups[0]["lr"] = lr
        parameter.grad = gradient.clone()
        optimizer.step()
        g = gradient + decay * weight
        velocity = mu * velocity + g
        weight = weight - lr * (g + mu * velocity)
        torch.testing.assert_close(parameter.detach(), weight, rtol=1e-14, atol=1e-15)
