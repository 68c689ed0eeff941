"""One step is one step, whatever it is made of; what goes wrong changes nothing."""

from __future__ import annotations

import math
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from videogn.engine.distributed import Ranks
from videogn.engine.schedule import Schedule
from videogn.engine.state import Hooks, TrainOptions, TrainState
from videogn.engine.train import train
from videogn.errors import RunInterruptedError, TrainingDivergedError

CLASSES = 3
OPTIONS = TrainOptions(
    accumulate=1,
    amp="none",
    max_steps=None,
    seed=0,
    monitor_every_epochs=1.0,
    log_every_steps=1,
    save_every_steps=1000,
)


def network(norm: str = "gn", seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    layer = nn.GroupNorm(2, 4) if norm == "gn" else nn.BatchNorm3d(4)
    return nn.Sequential(
        nn.Conv3d(3, 4, 3), layer, nn.ReLU(), nn.Flatten(), nn.Linear(4 * 2 * 4 * 4, CLASSES)
    )


def state_of(model: nn.Module, lr: float = 0.1) -> TrainState:
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, nesterov=True)
    return TrainState(model, optimizer, torch.amp.GradScaler("cpu", enabled=False))


def clips_of(number: int, count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return (
        torch.randn(count, 3, 4, 6, 6, generator=generator),
        torch.randint(CLASSES, (count,), generator=generator),
    )


def batch_of(clips: Tensor, labels: Tensor, bad: tuple[str, ...] = ()) -> SimpleNamespace:
    rows = torch.arange(len(labels))
    return SimpleNamespace(clips=clips, labels=labels, rows=rows, bad=bad, missing=0)


def stream(size: int, start: int = 0, split: int = 1) -> Iterator[SimpleNamespace]:
    """Yields batches number `start`, `start + 1`, ..., each in `split` parts."""
    number = start
    while True:
        clips, labels = clips_of(number, size)
        for part, its_labels in zip(clips.chunk(split), labels.chunk(split), strict=True):
            yield batch_of(part, its_labels)
        number += 1


@dataclass
class Recorder:
    """What training called, in order."""

    events: list[tuple[str, int]] = field(default_factory=list)
    records: list[dict[str, Any]] = field(default_factory=list)
    bad: list[Any] = field(default_factory=list)
    diverged: list[dict[str, Any]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    stop_at: int = -1
    state: TrainState | None = None

    def hooks(self, state: TrainState) -> Hooks:
        self.state = state
        return Hooks(
            log=lambda record: self.records.append(dict(record)),
            bad=self.bad.extend,
            diverged=lambda record: self.diverged.append(dict(record)),
            stepped=self.losses.append,
            save=lambda state: self.events.append(("save", state.step)),
            monitor=lambda state: self.events.append(("monitor", state.step)),
            interrupted=lambda: state.step == self.stop_at,
            look=lambda state: self.events.append(("look", state.step)),
        )

    def steps(self, event: str) -> list[int]:
        return [step for name, step in self.events if name == event]


def run(
    state: TrainState,
    batches: Iterator[Any],
    options: TrainOptions = OPTIONS,
    *,
    num_samples: int = 8,
    global_batch: int = 4,
    epochs: float = 2.0,
    ranks: Ranks = Ranks(),  # noqa: B008  frozen
    stop_at: int = -1,
    to_input: Callable[[Tensor], Tensor] = lambda clips: clips,
) -> Recorder:
    recorder = Recorder(stop_at=stop_at)
    schedule = Schedule(
        num_samples, global_batch, epochs=epochs, base_lr=0.1, base_batch=global_batch
    )
    train(
        state,
        batches,
        schedule=schedule,
        options=options,
        to_input=to_input,
        ranks=ranks,
        hooks=recorder.hooks(state),
    )
    return recorder


def weights(state: TrainState) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.model.state_dict().items()}


def test_two_batches_of_two_clips_accumulated_are_one_of_four_for_gn() -> None:
    whole, parts = state_of(network()), state_of(network())
    a = run(whole, stream(4))
    b = run(parts, stream(4, split=2), replace(OPTIONS, accumulate=2))
    for name, value in weights(whole).items():
        torch.testing.assert_close(weights(parts)[name], value, rtol=1e-6, atol=1e-6)
    assert [r["loss"] for r in a.records] == pytest.approx([r["loss"] for r in b.records], abs=1e-6)
    assert whole.step == parts.step == 4


def test_a_step_is_torch_sgd_on_the_mean_cross_entropy() -> None:
    state, model = state_of(network()), network()
    run(state, stream(4), replace(OPTIONS, max_steps=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    clips, labels = clips_of(0, 4)
    nn.functional.cross_entropy(model(clips), labels).backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        assert torch.equal(weights(state)[name], value)


class Poisoned(nn.Module):
    """Gives what it was given, until a clip says that its output or gradient is no number."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.net, self.how = network(), how

    def forward(self, clips: Tensor) -> Tensor:
        logits = self.net(clips)
        if clips[0, 0, 0, 0, 0] != 99:
            return logits
        if self.how == "gradient":
            logits.register_hook(lambda gradient: gradient * math.nan)
            return logits
        return logits * float(self.how)


def poisoned_third() -> Iterator[SimpleNamespace]:
    for number, batch in enumerate(stream(4)):
        if number == 2:
            batch.clips[0, 0, 0, 0, 0] = 99
        yield batch


@pytest.mark.parametrize("how", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_training_before_the_update(how: str) -> None:
    reference = state_of(Poisoned(how))
    run(reference, stream(4), replace(OPTIONS, max_steps=2))
    state = state_of(Poisoned(how))
    with pytest.raises(TrainingDivergedError, match=r"loss of step 3 is nan|loss of step 3 is inf"):
        run(state, poisoned_third())
    assert state.step == 2
    for name, value in weights(reference).items():
        assert torch.equal(weights(state)[name], value)


def test_a_bad_loss_in_the_last_of_several_micro_batches_updates_nothing() -> None:
    state = state_of(Poisoned("nan"))
    before = weights(state)
    with pytest.raises(TrainingDivergedError, match="step 1"):
        run(state, poisoned_third(), replace(OPTIONS, accumulate=3), global_batch=12)
    assert all(torch.equal(value, before[name]) for name, value in weights(state).items())


def test_a_gradient_that_is_no_number_ends_training_before_the_update() -> None:
    state = state_of(Poisoned("gradient"))
    with pytest.raises(TrainingDivergedError):
        run(state, poisoned_third(), replace(OPTIONS, max_steps=3))
    assert all(value.isfinite().all() for value in weights(state).values())


def test_bf16_runs_on_a_cpu_and_keeps_float32_weights() -> None:
    exact, half = state_of(network()), state_of(network())
    a = run(exact, stream(4))
    b = run(half, stream(4), replace(OPTIONS, amp="bf16"))
    assert all(value.dtype == torch.float32 for value in weights(half).values())
    for exact_record, record in zip(a.records, b.records, strict=True):
        assert record["loss"] == pytest.approx(exact_record["loss"], rel=0.05, abs=0.05)
        assert record["loss"] != exact_record["loss"]


def test_max_steps_ends_training_early_with_everything_done() -> None:
    state = state_of(network())
    recorder = run(state, stream(4), replace(OPTIONS, max_steps=3), epochs=10)
    assert state.step == 3
    assert recorder.events[-2:] == [("monitor", 3), ("save", 3)]
    assert [r["step"] for r in recorder.records] == [1, 2, 3]


def test_a_record_says_everything_documented_in_plain_values() -> None:
    recorder = run(state_of(network()), stream(4), replace(OPTIONS, log_every_steps=3))
    assert [r["step"] for r in recorder.records] == [3, 4]  # and the last step, always
    for record in recorder.records:
        assert list(record) == [
            "step",
            "epoch",
            "split",
            "loss",
            "lr",
            "grad_norm",
            "clips_per_s",
            "data_wait",
            "memory_mb",
        ]
        assert {type(value) for value in record.values()} == {int, float, str}
        assert record["split"] == "train"
        assert record["epoch"] == record["step"] * 4 / 8
        assert record["clips_per_s"] > 0
        assert 0 <= record["data_wait"] <= 1


def test_a_record_averages_the_losses_since_the_one_before() -> None:
    each = run(state_of(network()), stream(4)).records
    third = run(state_of(network()), stream(4), replace(OPTIONS, log_every_steps=3)).records
    losses = [r["loss"] for r in each]
    assert [r["loss"] for r in third] == pytest.approx([sum(losses[:3]) / 3, losses[3]], rel=1e-6)


def test_the_rate_is_set_before_the_step_that_it_is_for() -> None:
    state = state_of(network(), lr=123.0)
    rates = [r["lr"] for r in run(state, stream(4)).records]
    assert rates == [0.1] * 4
    assert all(group["lr"] == 0.1 for group in state.optimizer.param_groups)


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1.0, [3, 5, 8]),  # an epoch is 2.5 steps: the steps that end one, and the last
        (0.5, [2, 3, 4, 5, 7, 8]),  # 1.25, 2.5, 3.75, 5, 6.25, 7.5, and the last
        (2.0, [5, 8]),
        (0.1, [1, 2, 3, 4, 5, 6, 7, 8]),  # several in a step are one
        (100.0, [8]),
    ],
)
def test_monitoring_comes_when_epochs_end_and_at_the_end(every: float, expected: list[int]) -> None:
    options = replace(OPTIONS, monitor_every_epochs=every)
    recorder = run(state_of(network()), stream(4), options, num_samples=10, epochs=3.2)
    assert recorder.steps("monitor") == expected


@pytest.mark.parametrize(("every", "expected"), [(0.0, []), (1.0, [0, 3, 5]), (2.0, [0, 5])])
def test_features_are_looked_at_before_the_first_step_and_when_epochs_end(
    every: float, expected: list[int]
) -> None:
    options = replace(OPTIONS, percentiles_every_epochs=every)
    recorder = run(state_of(network()), stream(4), options, num_samples=10, epochs=2.4)
    assert recorder.steps("look") == expected
    monitored = recorder.events.index(("monitor", 3))
    assert not every or every > 1 or recorder.events[monitored + 1] == ("look", 3)


def test_the_step_that_ends_an_epoch_exactly_is_monitored_once_despite_rounding() -> None:
    options = replace(OPTIONS, monitor_every_epochs=0.1)  # 0.1 * 3 > 0.3 in floats
    recorder = run(state_of(network()), stream(1), options, num_samples=30, global_batch=1)
    assert recorder.steps("monitor") == [3 * i for i in range(1, 21)]


def test_saving_comes_every_so_many_steps_and_at_the_end_after_monitoring() -> None:
    options = replace(OPTIONS, save_every_steps=3)
    recorder = run(state_of(network()), stream(4), options, epochs=4)
    assert recorder.steps("save") == [3, 6, 8]
    assert recorder.events[-2:] == [("monitor", 8), ("save", 8)]


def test_an_interrupted_training_is_saved_and_goes_on_to_the_same_weights() -> None:
    unbroken = state_of(network())
    whole = run(unbroken, stream(4)).records
    state = state_of(network())
    recorder = Recorder(stop_at=2)
    schedule = Schedule(8, 4, epochs=2.0, base_lr=0.1, base_batch=4)
    with pytest.raises(RunInterruptedError, match=r"step 2 of 4.*saved"):
        train(
            state,
            stream(4),
            schedule=schedule,
            options=OPTIONS,
            to_input=lambda clips: clips,
            ranks=Ranks(),
            hooks=recorder.hooks(state),
        )
    assert recorder.steps("save") == [2]
    rest = run(state, stream(4, start=2)).records
    assert [r["loss"] for r in recorder.records + rest] == [r["loss"] for r in whole]
    for name, value in weights(unbroken).items():
        assert torch.equal(weights(state)[name], value)


def test_a_record_after_resuming_averages_the_steps_before_it_too() -> None:
    options = replace(OPTIONS, log_every_steps=3, max_steps=3)
    whole = run(state_of(network()), stream(4), options).records
    state = state_of(network())
    with pytest.raises(RunInterruptedError):
        run(state, stream(4), options, stop_at=2)
    rest = run(state, stream(4, start=2), options).records
    assert [r["loss"] for r in rest] == [r["loss"] for r in whole]


def test_bad_videos_are_reported_with_their_batch() -> None:
    batches = (batch_of(*clips_of(i, 4), bad=("a", "b") if i == 1 else ()) for i in range(4))
    assert run(state_of(network()), batches).bad == ["a", "b"]


class Drawing(nn.Module):
    """Notes what dropout would draw."""

    def __init__(self) -> None:
        super().__init__()
        self.net = network()
        self.draws: list[float] = []

    def forward(self, clips: Tensor) -> Tensor:
        assert self.training
        self.draws.append(float(torch.rand(())))
        return self.net(clips)


def draws(seed: int = 0, rank: int = 0, start: int = 0) -> list[float]:
    model = Drawing()
    state = state_of(model)
    state.step = start
    torch.rand(int(torch.randint(9, ())))  # wherever the global generator stands
    run(state, stream(4, start), replace(OPTIONS, seed=seed), ranks=Ranks(rank=rank))
    return model.draws


def test_dropout_is_a_function_of_seed_step_and_rank() -> None:
    first = draws()
    torch.seed()
    assert first == draws()
    assert first[2:] == draws(start=2)
    everything = [*first, *draws(seed=1), *draws(rank=1)]
    assert len(set(everything)) == len(everything) == 12


# Signals


def signalled(*seconds: float) -> int:
    """Returns how a process ends that gets SIGTERM after each of `seconds` while taking a step."""
    program = (
        "import os, signal, sys, time\n"
        "from videogn.engine.signals import noted_signals\n"
        "with noted_signals() as interrupted:\n"
        "    for pause in sys.argv[1:]:\n"
        "        time.sleep(float(pause))\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "    assert interrupted()\n"
        "sys.exit(130)\n"
    )
    command = [sys.executable, "-c", program, *map(str, seconds)]
    return subprocess.run(command, cwd=Path(__file__).parents[2], check=False).returncode


def test_a_signal_is_noted_and_a_later_one_ends_the_process_at_once() -> None:
    assert signalled(0) == 130
    assert signalled(0, 2.5) == -signal.SIGTERM


def test_a_signal_and_its_echo_are_one() -> None:
    """Slurm signals every process of a step, and torchrun passes its own on: each rank gets two."""
    assert signalled(0, 0.1) == 130
