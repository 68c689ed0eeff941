"""What a step does beside descending: it clips, averages, and refuses numbers gone bad."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from tests.engine.test_train import (
    OPTIONS,
    Poisoned,
    Recorder,
    batch_of,
    clips_of,
    network,
    poisoned_third,
    run,
    state_of,
    stream,
    weights,
)
from videogn.engine.distributed import Ranks
from videogn.engine.divergence import MAX_OVERFLOWS
from videogn.engine.ema import Ema
from videogn.engine.pace import ADVISE_EVERY, WaitingAdvice
from videogn.engine.progress import duration
from videogn.engine.schedule import Schedule
from videogn.engine.state import TrainState
from videogn.engine.train import train
from videogn.errors import DataError, TrainingDivergedError


def diverging(
    state: TrainState,
    batches: Iterator[Any],
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    **changed: Any,
) -> Recorder:
    """Trains until it diverges; returns what was called until then."""
    recorder = Recorder()
    with pytest.raises(TrainingDivergedError) as raised:
        train(
            state,
            batches,
            schedule=Schedule(8, 4, epochs=20.0, base_lr=0.1, base_batch=4),
            options=replace(OPTIONS, **changed),
            to_input=lambda clips: clips,
            ranks=ranks,
            hooks=recorder.hooks(state),
        )
    assert raised.value.exit_code == 4
    return recorder


# Clipping


def gradient_norm(model: nn.Module) -> float:
    """Returns the norm over all parameters of the first batch's gradient, in float64."""
    clips, labels = clips_of(0, 4)
    nn.functional.cross_entropy(model(clips), labels).backward()
    return math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.parameters()))  # type: ignore[union-attr]


@pytest.mark.parametrize("share", [0.5, 2.0])
def test_a_gradient_above_the_limit_is_scaled_down_to_it_and_recorded_as_it_was(
    share: float,
) -> None:
    model = network()
    norm = gradient_norm(model)
    state, options = state_of(network()), replace(OPTIONS, max_steps=1, clip_grad=share * norm)
    records = run(state, stream(4), options).records
    assert records[0]["grad_norm"] == pytest.approx(norm, rel=1e-5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    for p in model.parameters():
        assert p.grad is not None
        p.grad *= min(share, 1)
    optimizer.step()
    for name, value in model.state_dict().items():
        torch.testing.assert_close(weights(state)[name], value, rtol=1e-5, atol=1e-7)


def test_the_limit_holds_for_the_sum_of_accumulated_gradients() -> None:
    limit = 0.5 * gradient_norm(network())
    whole, parts = state_of(network()), state_of(network())
    options = replace(OPTIONS, clip_grad=limit)
    run(whole, stream(4), options)
    run(parts, stream(4, split=2), replace(options, accumulate=2))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-5, atol=1e-6)


# fp16, whose scaler works on a CPU too


def fp16_state(scale: float = 2.0**16) -> TrainState:
    state = state_of(network())
    state.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    return state


def test_clipping_under_fp16_sees_gradients_without_the_scale() -> None:
    limit = 0.5 * gradient_norm(network())
    exact, half = state_of(network()), fp16_state(1024.0)
    options = replace(OPTIONS, clip_grad=limit)
    a = run(exact, stream(4), options).records
    b = run(half, stream(4), replace(options, amp="fp16")).records
    for one, other in zip(a, b, strict=True):
        assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=0.05)
        assert other["loss_scale"] == 1024
    for name, value in weights(exact).items():
        torch.testing.assert_close(weights(half)[name], value, rtol=0.1, atol=0.01)


def test_an_overflow_of_fp16_is_skipped_and_the_next_steps_are_taken() -> None:
    state = fp16_state(2.0**32)  # of which some halvings are left before gradients fit
    recorder = run(state, stream(4), replace(OPTIONS, amp="fp16", max_steps=20), epochs=40)
    norms = [r["grad_norm"] for r in recorder.records]
    scales = [r["loss_scale"] for r in recorder.records]
    skipped = norms.index(next(n for n in norms if n is not None))
    assert 0 < skipped < 20
    assert norms[:skipped] == [None] * skipped
    assert scales[:skipped] == [2.0 ** (31 - i) for i in range(skipped)]
    assert None not in norms[skipped:]
    assert state.overflows == 0
    assert recorder.diverged == []


def test_too_many_overflows_in_a_row_end_training() -> None:
    state = fp16_state(2.0**120)
    before = weights(state)
    recorder = diverging(state, stream(4), amp="fp16")
    assert state.step == MAX_OVERFLOWS - 1
    assert recorder.diverged[0]["grad_norm"] == math.inf or math.isnan(
        recorder.diverged[0]["grad_norm"]
    )
    assert all(torch.equal(value, before[name]) for name, value in weights(state).items())


# Numbers gone bad


@pytest.mark.parametrize(
    ("how", "what", "bad"),
    [("nan", "loss", "loss"), ("inf", "loss", "loss"), ("gradient", "gradient", "grad_norm")],
)
def test_what_went_bad_is_dumped_with_the_rows_of_the_step(how: str, what: str, bad: str) -> None:
    state = state_of(Poisoned(how))
    recorder = diverging(state, poisoned_third())
    (dump,) = recorder.diverged
    assert not math.isfinite(dump[bad])
    assert (dump["step"], dump["lr"], dump["amp"]) == (3, 0.1, "none")
    (rank,) = dump["ranks"]
    assert rank["rows"] == [0, 1, 2, 3]
    assert math.isfinite(rank["loss"]) == (what == "gradient")
    assert recorder.steps("save") == []


@pytest.mark.parametrize(
    ("amp", "weight", "remedy"),
    [
        ("bf16", 1.0, "try optim.amp=none"),
        ("bf16", math.nan, "or lower optim.base_lr"),
        ("none", 1.0, "or lower optim.base_lr"),
    ],
)
def test_gradients_gone_bad_in_bf16_on_a_cpu_of_finite_weights_are_laid_to_bf16(
    amp: str, weight: float, remedy: str
) -> None:
    model = Poisoned("gradient")
    model.unused = nn.Parameter(torch.tensor(weight))
    with pytest.raises(TrainingDivergedError, match="the gradient of step 3 is nan") as raised:
        run(state_of(model), poisoned_third(), replace(OPTIONS, amp=amp))
    assert str(raised.value).endswith(remedy)


def test_a_loss_gone_bad_is_not_laid_to_bf16() -> None:
    with pytest.raises(TrainingDivergedError, match=r"lower optim\.base_lr$"):
        run(state_of(Poisoned("nan")), poisoned_third(), replace(OPTIONS, amp="bf16"))


def test_the_dump_has_the_rows_of_all_micro_batches() -> None:
    state = state_of(Poisoned("nan"))
    recorder = diverging(state, poisoned_third(), accumulate=3)
    assert recorder.diverged[0]["ranks"][0]["rows"] == [0, 1, 2, 3] * 3


def test_a_clip_without_any_video_in_its_place_ends_training() -> None:
    def batches() -> Iterator[SimpleNamespace]:
        batch = batch_of(*clips_of(0, 4), bad=(SimpleNamespace(path="a.mp4"),))  # type: ignore[arg-type]
        batch.missing = 2
        yield batch

    with pytest.raises(DataError, match=r"2 clips of step 1 .*the last of them a\.mp4"):
        run(state_of(network()), batches())


# The average of the weights


def test_the_average_follows_every_step_and_is_tested_in_place_of_the_weights() -> None:
    state = state_of(network("bn"))
    state.ema = Ema(state.model, 0.9)
    expected = {name: value.double() for name, value in weights(state).items()}
    plain = state_of(network("bn"))
    for step in range(1, 5):
        options = replace(OPTIONS, max_steps=step)
        run(plain, stream(4, start=step - 1), options)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in weights(plain).items():
            expected[name] = decay * expected[name] + (1 - decay) * value.double()
    run(state, stream(4))
    for name, value in weights(plain).items():  # the average changes nothing of the training
        assert torch.equal(weights(state)[name], value)
    with state.averaged():
        for name, value in weights(state).items():
            if value.is_floating_point():
                torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-6)
    for name, value in weights(plain).items():
        assert torch.equal(weights(state)[name], value)


# What is said on the way


def test_every_step_gives_its_loss_and_a_record_its_memory() -> None:
    recorder = run(state_of(network()), stream(4))
    assert recorder.losses == [r["loss"] for r in recorder.records]
    assert all(50 < r["memory_mb"] < 10_000 for r in recorder.records)


def test_advice_comes_above_15_percent_never_first_and_seldom(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    advice = WaitingAdvice()
    assert not advice.is_due(0.9)  # while the workers start
    assert not advice.is_due(0.15)
    assert advice.is_due(0.16)
    now += ADVISE_EVERY - 1
    assert not advice.is_due(0.9)
    now += 2
    assert advice.is_due(0.9)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (119, "119 s"), (120, "2 min"), (3600, "1 h 0 min"), (5 * 86400, "5 d 0 h")],
)
def test_a_time_is_told_in_its_two_largest_units(seconds: float, words: str) -> None:
    assert duration(seconds) == words
