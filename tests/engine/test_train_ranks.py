"""Two ranks decide as one: started by torchrun, this file is the program that they run."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.engine.test_step import diverging
from tests.engine.test_train import (
    OPTIONS,
    Poisoned,
    Recorder,
    batch_of,
    clips_of,
    network,
    run,
    state_of,
    weights,
)
from videogn.engine import distributed
from videogn.engine.distributed import Ranks, gather
from videogn.engine.ema import Ema
from videogn.engine.schedule import Schedule
from videogn.engine.state import TrainState
from videogn.engine.train import train
from videogn.errors import DataError

REPOSITORY = Path(__file__).parents[2]


def share(ranks: Ranks, start: int = 0) -> Iterator[SimpleNamespace]:
    """Yields this rank's half of batches of four clips, which differ between ranks."""
    number = start
    while True:
        clips, labels = clips_of(number, 4)
        yield batch_of(clips.chunk(2)[ranks.rank], labels.chunk(2)[ranks.rank])
        number += 1


def require_same(values: dict[str, Tensor]) -> None:
    """Fails unless every rank has the same bits."""
    first, *others = gather({name: value.clone() for name, value in values.items()})
    for other in others:
        for name, value in first.items():
            assert torch.equal(value, other[name]), name


def check_running_statistics(ranks: Ranks) -> None:
    """At each save they are the mean over ranks, and saving them more often changes no bit."""
    saved: list[dict[str, Tensor]] = []

    def save(state: TrainState) -> None:
        require_same(weights(state))
        saved.append(weights(state))

    for often in (1, 1000):
        state = state_of(network("bn"))
        train(
            state,
            share(ranks),
            schedule=Schedule(8, 4, epochs=2.0, base_lr=0.1, base_batch=4),
            options=replace(OPTIONS, save_every_steps=often),
            to_input=lambda clips: clips,
            ranks=ranks,
            hooks=replace(Recorder().hooks(state), save=save),
        )
    assert len(saved) == 4 + 1
    for name, value in saved[3].items():
        assert torch.equal(value, saved[4][name]), name
    both = network("bn")
    layer: Any = both[1]  # type: ignore[index]
    halves = clips_of(0, 4)[0].chunk(2)
    means = [both[0](half).mean((0, 2, 3, 4)) for half in halves]  # type: ignore[index]
    expected = 0.9 * layer.running_mean + 0.1 * torch.stack(means).mean(0)
    torch.testing.assert_close(saved[0]["1.running_mean"], expected, rtol=1e-5, atol=1e-6)


def check_going_on(ranks: Ranks) -> None:
    """From what rank 0 saves alone, every rank goes on to the bits of the unbroken training."""
    unbroken = state_of(network("bn"))
    run(unbroken, share(ranks), ranks=ranks)
    broken = state_of(network("bn"))
    run(broken, share(ranks), replace(OPTIONS, max_steps=2), ranks=ranks)
    saved = distributed.from_main((weights(broken), broken.optimizer.state_dict()))
    state = state_of(network("bn", seed=9))
    state.model.load_state_dict(saved[0])
    state.optimizer.load_state_dict(saved[1])
    state.step = 2
    run(state, share(ranks, start=2), ranks=ranks)
    for name, value in weights(unbroken).items():
        assert torch.equal(weights(state)[name], value), name


def poisoned_on_rank_1(ranks: Ranks, at: int) -> Iterator[SimpleNamespace]:
    for number, batch in enumerate(share(ranks)):
        if ranks.rank == 1 and number == at:
            batch.clips[0, 0, 0, 0, 0] = 99
        yield batch


def check_bad_numbers(ranks: Ranks) -> None:
    """What only rank 1 sees stops both before the update, first micro-batch or last."""
    for how, at in (("nan", 2), ("inf", 3), ("gradient", 2), ("gradient", 3)):
        state = state_of(Poisoned(how))
        recorder = diverging(state, poisoned_on_rank_1(ranks, at), ranks, accumulate=2)
        assert state.step == 1
        assert all(value.isfinite().all() for value in weights(state).values())
        require_same(weights(state))
        (dump,) = recorder.diverged
        assert math.isfinite(dump["loss"]) == (how == "gradient")  # of both, as both say
        losses = [part["loss"] for part in dump["ranks"]]
        assert math.isfinite(losses[0])
        assert math.isfinite(losses[1]) == (how == "gradient")
        assert [part["rows"] for part in dump["ranks"]] == [[0, 1] * 2] * 2


def check_clipping_and_average(ranks: Ranks) -> None:
    """Both are of the gradient of all ranks, the same bits on each, and what one rank would do."""
    options = replace(OPTIONS, clip_grad=0.5)
    state, alone = state_of(network()), state_of(network())
    for one in (state, alone):
        one.ema = Ema(one.model, 0.9)
    run(state, share(ranks), options, ranks=ranks)
    parts = (batch for pair in zip(share(Ranks(0)), share(Ranks(1)), strict=True) for batch in pair)
    run(alone, parts, replace(options, accumulate=2))  # on both, whose mean changes nothing
    assert state.ema is not None
    assert alone.ema is not None
    require_same(weights(state) | state.ema.state_dict())
    for name, value in weights(alone).items():
        torch.testing.assert_close(weights(state)[name], value, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(
            state.ema.state_dict()[name], alone.ema.state_dict()[name], rtol=1e-5, atol=1e-6
        )


def check_bad_videos(ranks: Ranks) -> None:
    """Rank 1's are told to both; a clip that it cannot replace ends both."""

    def batches(missing: int) -> Iterator[SimpleNamespace]:
        for number, batch in enumerate(share(ranks)):
            if ranks.rank == 1 and number == 1:
                batch.bad = [SimpleNamespace(path="b.mp4")]
                batch.missing = missing
            yield batch

    recorder = run(state_of(network()), batches(0), ranks=ranks)
    assert [video.path for video in recorder.bad] == ["b.mp4"]
    state = state_of(network())
    with pytest.raises(DataError, match=r"1 clips of step 2 .*the last of them b\.mp4"):
        run(state, batches(1), ranks=ranks)
    assert state.step == 1


CHECKS = (
    check_running_statistics,
    check_going_on,
    check_bad_numbers,
    check_clipping_and_average,
    check_bad_videos,
)


@pytest.mark.slow
def test_two_ranks_decide_as_one() -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc_per_node", "2", "-m", "tests.engine.test_train_ranks"],
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split() == [check.__name__ for check in CHECKS]


def main() -> None:
    """Makes every check on this rank."""
    torch.set_num_threads(1)
    ranks = distributed.join(torch.device("cpu"), 60)
    for check in CHECKS:
        check(ranks)
        if ranks.is_main:
            sys.stdout.write(f"{check.__name__}\n")
    distributed.leave()


if __name__ == "__main__":
    main()
