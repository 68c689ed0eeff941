"""Which sample comes when: a function of (seed, epoch), so that nothing has to be remembered.

Training reads one endless stream: the epochs' permutations, end to end. A batch may reach over
the end of an epoch, so no sample is dropped and an epoch is exactly one look at each. Resuming
is starting the stream at another position; neither workers nor ranks change it.

With R clips from each decode, R epochs are dealt together: every permutation goes by once, and each
video in it gives the clips of R epochs side by side (here with 3 videos and R = 2, as epoch:row):

    R = 1   0:2 0:0 0:1   1:2 1:0 1:1   2:2 2:1 2:0 ...
    R = 2   0:2 1:2 0:0 1:0 0:1 1:1     2:2 3:2 2:0 ...
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np


class SampleKey(NamedTuple):
    """What decides a training sample: which look at which video.

    Attributes:
        epoch: how often the data had been seen before; it seeds the augmentation.
        row: of the video in the manifest.
    """

    epoch: int
    row: int


def epoch_order(num_samples: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the permutation of `range(num_samples)` in which an epoch looks at the data."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


class Stream:
    """The batches of one rank, from a step on, for ever: lists of `SampleKey`.

    The stream's positions are dealt out like cards: every micro-batch takes `batch_size` for each
    rank in turn, so what all ranks see in a step does not depend on their number.

    Args:
        num_samples: rows of the manifest.
        seed: of the run.
        batch_size: clips of one rank's micro-batch.
        rank: of this process.
        world: number of processes.
        clips_per_decode: R, a divisor of `batch_size`.
        start: micro-batches already taken.
        stop: micro-batch to end before; None for never.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        seed: int,
        batch_size: int,
        rank: int = 0,
        world: int = 1,
        clips_per_decode: int = 1,
        start: int = 0,
        stop: int | None = None,
    ) -> None:
        self.num_samples, self.seed, self.batch_size = num_samples, seed, batch_size
        self.rank, self.world, self.clips_per_decode = rank, world, clips_per_decode
        self.start, self.stop = start, stop

    def __iter__(self) -> Iterator[list[SampleKey]]:
        together = self.clips_per_decode
        permutation, order = -1, np.empty(0, np.int64)
        batch = self.start
        while self.stop is None or batch < self.stop:
            first = (batch * self.world + self.rank) * self.batch_size
            keys = []
            for position in range(first, first + self.batch_size):
                looks, place = divmod(position // together, self.num_samples)
                if looks != permutation:
                    permutation = looks
                    order = epoch_order(self.num_samples, self.seed, permutation)
                epoch = looks * together + position % together
                keys.append(SampleKey(epoch, int(order[place])))
            yield keys
            batch += 1
