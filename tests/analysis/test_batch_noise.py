"""The noise of batches: against brute force for BN's statistics, and exactly nothing with GN."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from videogn.analysis import batch_noise
from videogn.analysis.batch_noise import ClipMoments, answer_noise, clip_moments, statistics_noise
from videogn.analysis.noise import measure_noise
from videogn.errors import DataError
from videogn.model import create_model, norm_factory
from videogn.model.norm import named_norms


def clips(number: int = 8) -> list[Tensor]:
    """Clips as different as videos are: each of its own brightness and contrast."""
    torch.manual_seed(3)
    scale = torch.rand(number, 1, 1, 1, 1) + 0.5
    return list(torch.randn(number, 3, 4, 32, 32) * scale + torch.randn(number, 3, 1, 1, 1))


def network(kind: str, sub_batch: int | None = None) -> nn.Module:
    torch.manual_seed(0)
    norm = (
        norm_factory("gn", num_groups=4)
        if kind == "gn"
        else norm_factory("bn", sub_batch=sub_batch)
    )
    model = create_model(
        "i3d_r14", norm=norm, num_frames=4, crop_size=32, num_classes=5, width=8,
        dropout=0.9, zero_init_residual=False,
    )  # fmt: skip
    nn.init.normal_(model.fc.weight)
    return model


class Small(nn.Module):
    """A convolution and a norm, whose input can be computed by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 4, 1), nn.BatchNorm3d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3, 4))


def test_statistics_are_those_of_whole_batches_made_by_hand(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_noise, "DRAWS", 12)
    model, given = Small(), clips()
    found = statistics_noise(clip_moments(model, {"n": model.norm}, given)["n"], 4, seed=7)
    maps = model.conv(torch.stack(given)).detach().double()
    drawn = np.random.default_rng([7, 4]).integers(8, size=(12, 4))
    batches = [maps[rows].transpose(0, 1).flatten(1) for rows in drawn]  # (C, positions)
    means = torch.stack([batch.mean(1) for batch in batches])
    logs = torch.stack([batch.std(1, correction=0).log() for batch in batches])
    population = maps.transpose(0, 1).flatten(1).var(1, correction=0)
    unbiased = 8 / 7  # 8 clips stand for a stream of them
    mean, scale = (means.var(0) / population).mean(), logs.var(0).mean()
    assert found.mean == pytest.approx(float((unbiased * mean).sqrt()), rel=1e-4)
    assert found.scale == pytest.approx(float((unbiased * scale).sqrt()), rel=1e-4)


def test_few_clips_tell_of_the_noise_of_a_stream_of_them() -> None:
    rng = np.random.default_rng(5)
    means = torch.from_numpy(rng.standard_normal((8, 4000)))  # a channel is an experiment
    moments = ClipMoments(means, means**2 + 100)  # each clip's own variance is 100
    assert statistics_noise(moments, 4).mean == pytest.approx((1 / 4 / 101) ** 0.5, rel=0.02)


def test_the_noise_of_the_mean_falls_with_the_root_of_the_batch() -> None:
    model, given = Small(), clips(32)
    moments = clip_moments(model, {"n": model.norm}, given)["n"]
    few, many = statistics_noise(moments, 2), statistics_noise(moments, 8)
    assert few.mean / many.mean == pytest.approx(2, rel=0.15)
    assert few.scale > 1.5 * many.scale > 0


def test_clips_that_are_all_alike_make_no_noise() -> None:
    model = Small()
    moments = clip_moments(model, {"n": model.norm}, clips(1) * 4)["n"]
    found = statistics_noise(moments, 2)
    assert found.mean == pytest.approx(0, abs=1e-6)
    assert found.scale == pytest.approx(0, abs=1e-6)


def test_answers_of_bn_change_with_company_and_the_less_the_larger_the_batch() -> None:
    few, many = (answer_noise(Small(), clips(16), size, rounds=4) for size in (2, 8))
    assert few.change > many.change > 0.01
    assert few.cosine < many.cosine < 1
    assert few.largest > 0


def test_answers_of_gn_are_the_same_to_the_bit_in_any_company() -> None:
    model, given = network("gn"), clips()
    found = answer_noise(model, given, 4, rounds=3)
    assert (found.change, found.cosine, found.flips, found.largest) == (0.0, 1.0, 0.0, 0.0)
    answers = model.eval()(torch.stack(given))
    assert answers.std(0).min() > 0.01  # though clips have different answers


def test_a_change_of_known_size_is_found() -> None:
    class Leaks(nn.Module):
        """Adds 1 to the first of its logits, 3 and -3, where its neighbour in the batch is odd."""

        def forward(self, x: Tensor) -> Tensor:
            odd = (x.flatten(1)[:, 0] > 0).float()
            add = odd.sum() - odd if self.training else torch.zeros(len(x))
            return torch.stack([3 + add, -3 + torch.zeros(len(x))], 1)

    given = [torch.full((3, 1, 1, 1), float(number % 2)) for number in range(4)]
    found = answer_noise(Leaks(), given, 2, rounds=400)
    # Answers are (3, -3) or, in 1 or 2 of 3 companies, (3.5, -3.5) about their mean.
    assert found.largest == 1.0
    means = [6 + share for share in (1 / 3, 2 / 3)]
    expected = np.sqrt(np.mean([(2 / 9) / mean**2 for mean in means]))
    assert found.change == pytest.approx(expected, rel=0.08)
    assert found.flips == 0
    assert found.cosine == pytest.approx(1)


@pytest.mark.parametrize("sub_batch", [None, 2])
def test_the_network_is_left_to_the_bit_as_it_was(sub_batch: int | None) -> None:
    model = network("bn", sub_batch)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = measure_noise(model, clips(), "BN", rounds=2)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    layers = named_norms(model).values()
    assert all(layer.sub_batch == sub_batch for layer in layers)
    assert list(found.statistics) == [2, 4]
    assert list(found.statistics[2]) == list(named_norms(model))
    assert found.answers["BN"][4].change > 0  # a batch is one, whatever the sub-batch
    assert found.answers["GN in its place"][2].largest == 0


def test_too_few_clips_are_refused() -> None:
    with pytest.raises(DataError, match=r"only 7 clips .* 8 are needed .* --clips"):
        measure_noise(network("gn"), clips(7), "GN", rounds=2)
