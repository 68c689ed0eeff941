"""Batch Renorm, BN over sub-batches and BN over processes against their formulas, in float64."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.model.sync_ranks import CLIPS, inputs, layer_of, results
from videogn.config import config_from
from videogn.engine.precise_bn import precise_bn
from videogn.errors import ConfigError
from videogn.model import create_model
from videogn.model.norm import norm_factory
from videogn.model.renorm import BatchRenorm3d

ROOT = Path(__file__).parents[2]
AXES = (0, 2, 3, 4)
EPS = 1e-5


def wide(values: Tensor) -> Tensor:
    return values.view(1, -1, 1, 1, 1)


def batches(count: int, clips: int = 4) -> list[Tensor]:
    """Clips whose channels move from batch to batch: r and d meet their limits and do not."""
    random = torch.Generator().manual_seed(0)
    shape = (clips, 4, 2, 3, 3)
    scale = torch.tensor([1.0, 3.0, 0.2, 1.0]).double()
    return [
        torch.randn(shape, dtype=torch.float64, generator=random) * wide(scale) * (1 + 0.3 * i)
        + wide(torch.tensor([0.1, 2.0, 0.0, -0.2]).double())
        for i in range(count)
    ]


def affine(layer: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(1)
    layer.weight.data.normal_(1, 0.5, generator=random)  # type: ignore[operator,union-attr]
    layer.bias.data.normal_(generator=random)  # type: ignore[operator,union-attr]
    return layer


# Batch Renorm


def limits(step: int, warmup: int) -> tuple[float, float]:
    grown = 1.0 if warmup == 0 else min(max(step - warmup, 0) / warmup, 1.0)
    return 1 + 0.5 * grown, 0.5 * grown


@pytest.mark.parametrize("warmup", [0, 2])
def test_batch_renorm_is_the_formula_of_its_paper(warmup: int) -> None:
    factory = norm_factory("brn", eps=EPS, momentum=0.2, brn_warmup_steps=warmup)
    layer = affine(factory(4).double())
    gamma, beta = layer.weight, layer.bias
    mu, sigma = torch.zeros(4).double(), torch.ones(4).double().add(EPS).sqrt()
    clipped: set[bool] = set()
    for step, x in enumerate(batches(6)):
        x.requires_grad_()
        r_max, d_max = limits(step, warmup)
        mean, std = x.mean(AXES), (x.var(AXES, correction=0) + EPS).sqrt()
        ratio = (std / sigma).detach()
        r = ratio.clamp(1 / r_max, r_max)
        d = ((mean - mu) / sigma).detach().clamp(-d_max, d_max)
        clipped |= set((r == ratio).tolist())
        expected = ((x - wide(mean)) / wide(std) * wide(r) + wide(d)) * wide(gamma) + wide(beta)  # type: ignore[arg-type]
        upstream = torch.randn(
            x.shape, dtype=x.dtype, generator=torch.Generator().manual_seed(step)
        )
        wanted = [x, gamma, beta]
        have = layer(x)
        torch.testing.assert_close(have, expected, rtol=1e-9, atol=1e-9)
        for a, b in zip(
            torch.autograd.grad(have, wanted, upstream),
            torch.autograd.grad(expected, wanted, upstream),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)
        mu, sigma = mu + 0.2 * (mean.detach() - mu), sigma + 0.2 * (std.detach() - sigma)
        torch.testing.assert_close(layer.running_mean, mu)
        torch.testing.assert_close(layer.running_var, sigma**2 - EPS)
    assert clipped == {True, False}
    x = batches(1)[0]
    tested = (x - wide(mu)) / wide(sigma) * wide(gamma) + wide(beta)  # type: ignore[arg-type]
    torch.testing.assert_close(layer.eval()(x), tested)


def test_batch_renorm_starts_as_batch_norm() -> None:
    renorm, plain = norm_factory("brn")(4).double(), norm_factory("bn")(4).double()
    for x in batches(3):
        torch.testing.assert_close(renorm(x), plain(x))
    assert set(renorm.state_dict()) == set(plain.state_dict())


def test_precise_bn_leaves_batch_renorm_its_running_statistics() -> None:
    layer = norm_factory("brn", brn_warmup_steps=0)(4)
    assert isinstance(layer, BatchRenorm3d)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    assert precise_bn(layer, [], to_input=lambda clips: clips) == 0
    assert all(torch.equal(value, before[key]) for key, value in layer.state_dict().items())


# Sub-batches


def test_sub_batches_are_so_many_small_batches() -> None:
    layer = affine(norm_factory("bn", momentum=0.3, sub_batch=2)(4).double())
    alone = [affine(norm_factory("bn", momentum=0.3)(4).double()) for _ in range(3)]
    for x in batches(2, clips=6):
        x.requires_grad_()
        residual, upstream = x.detach() * 0.1, x.detach().cos()
        have = layer(x, residual, True)
        parts = [
            part_layer(part, more, True)
            for part_layer, part, more in zip(alone, x.split(2), residual.split(2), strict=True)
        ]
        expected = torch.cat(parts)
        torch.testing.assert_close(have, expected)
        have_grads = torch.autograd.grad(have, [x, layer.weight, layer.bias], upstream)  # type: ignore[list-item]
        sums = torch.autograd.grad(
            expected, [x, *(p for each in alone for p in each.parameters())], upstream
        )
        torch.testing.assert_close(have_grads[0], sums[0])
        torch.testing.assert_close(have_grads[1], sums[1] + sums[3] + sums[5])
        torch.testing.assert_close(have_grads[2], sums[2] + sums[4] + sums[6])
        for name in ("running_mean", "running_var"):
            mean = torch.stack([getattr(each, name) for each in alone]).mean(0)
            torch.testing.assert_close(getattr(layer, name), mean)
    assert layer.num_batches_tracked == 2


def test_sub_batches_count_in_training_only() -> None:
    layer, plain = norm_factory("bn", sub_batch=2)(4), norm_factory("bn")(4)
    x = batches(1, clips=4)[0].float()
    assert torch.equal(layer.eval()(x), plain.eval()(x))
    assert torch.equal(layer.train()(x[:2]), plain.train()(x[:2]))
    with pytest.raises(ValueError, match=r"batch of 3 clips .* sub-batches of 2"):
        layer(x[:3])


def test_precise_bn_measures_the_population_across_sub_batches() -> None:
    layer = norm_factory("bn", sub_batch=2)(4)
    parts = [x.float() for x in batches(3)]

    class Batch:
        def __init__(self, clips: Tensor) -> None:
            self.clips = clips

    assert precise_bn(layer, map(Batch, parts), to_input=lambda clips: clips) == 3
    everything = torch.cat(parts).double()
    running = layer.running_var.double()
    torch.testing.assert_close(running, everything.var(AXES, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model.norm.sub_batch=2"], "model.norm.sub_batch=2: wanted null with .*kind=gn"),
        (
            ["model.norm.kind=bn", "model.norm.sub_batch=3"],
            "model.norm.sub_batch=3: .*optim.clips_per_gpu=4",
        ),
        (["model.norm.brn_r_max=0.5"], "model.norm.brn_r_max=0.5: wanted a number >= 1"),
        (["model.norm.brn_d_max=-1"], "model.norm.brn_d_max=-1.0: wanted a number >= 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(overrides: list[str], said: str) -> None:
    stated = {"name": "a", "data": {"root": "r", "num_frames": 8, "frame_stride": 2}}
    optim = {"clips_per_gpu": 4, "base_lr": 0.01, "epochs": 1}
    with pytest.raises(ConfigError, match=said):
        config_from(stated | {"optim": optim}, overrides)


# All processes


def test_sync_bn_of_one_process_is_bn() -> None:
    x = batches(1)[0]
    sync, plain = norm_factory("sync_bn")(4).double(), norm_factory("bn")(4).double()
    assert torch.equal(sync(x), plain(x))


@pytest.mark.slow
def test_sync_bn_of_two_processes_is_bn_over_all_their_clips(tmp_path: Path) -> None:
    outs = [tmp_path / "0.pt", tmp_path / "1.pt"]
    command = [sys.executable, "-m", "tests.model.sync_ranks"]
    started = [
        subprocess.Popen([*command, str(i), str(tmp_path / "store"), str(out)], cwd=ROOT)
        for i, out in enumerate(outs)
    ]
    try:
        assert [process.wait(120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
    made = [torch.load(out, weights_only=True) for out in outs]
    layer = layer_of("bn")
    for i in range(len(CLIPS)):
        expected = results(layer, *inputs(i))
        for k, name in enumerate(["y", "dx", "dresidual", "dweight", "dbias", "mean", "var"]):
            ranks = [made[rank][i][k] for rank in range(2)]
            if name in ("mean", "var"):  # the same bits everywhere
                assert torch.equal(ranks[0], ranks[1])
            have = (
                torch.cat(ranks)
                if name in ("y", "dx", "dresidual")
                else ranks[0] + ranks[1]
                if name in ("dweight", "dbias")
                else ranks[0]
            )
            torch.testing.assert_close(have, expected[k], msg=lambda m, name=name: f"{name}: {m}")


def test_the_kinds_of_bn_are_one_function_when_tested() -> None:
    options = {"width": 8, "num_classes": 3, "num_frames": 4, "crop_size": 32}
    prints = [
        create_model("i3d_r14", norm=kind, **options).fingerprint()
        for kind in ("bn", "brn", "sync_bn", "frozen_bn")
    ]
    assert prints[0] == prints[1] == prints[2] != prints[3]
    assert prints[0]["norm"] == "BatchNorm3d"
