"""The order of samples is a function of (seed, epoch): permutations dealt out like cards."""

from __future__ import annotations

from itertools import chain, islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videogn.data.order import SampleKey, Stream, epoch_order


def keys_of(batches: list[list[SampleKey]]) -> list[SampleKey]:
    return list(chain.from_iterable(batches))


def test_an_epoch_is_a_permutation_that_differs_by_epoch_and_seed() -> None:
    orders = [epoch_order(100, seed, epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len({tuple(order) for order in orders}) == 4


def test_the_order_is_the_same_on_every_machine_and_in_every_process() -> None:
    """Written down once: another value here means that no run can be resumed or repeated."""
    assert epoch_order(8, 0, 0).tolist() == [2, 4, 3, 6, 5, 0, 1, 7]
    assert epoch_order(8, 0, 1).tolist() == [1, 3, 7, 6, 0, 4, 2, 5]
    assert epoch_order(8, 1, 0).tolist() == [5, 0, 1, 4, 2, 6, 3, 7]
    assert list(Stream(5, seed=0, batch_size=3, stop=4)) == [
        [(0, 2), (0, 4), (0, 3)],
        [(0, 0), (0, 1), (1, 1)],  # over the end of an epoch
        [(1, 4), (1, 3), (1, 0)],
        [(1, 2), (2, 4), (2, 2)],
    ]


def test_every_epoch_looks_at_each_sample_once() -> None:
    keys = keys_of(list(Stream(7, seed=3, batch_size=4, stop=14)))  # 56 looks: 8 epochs
    assert len(set(keys)) == len(keys) == 56
    assert keys == sorted(keys, key=lambda key: key.epoch)
    for epoch in range(8):
        assert {key.row for key in keys if key.epoch == epoch} == set(range(7))


def test_clips_of_one_video_lie_side_by_side_and_are_those_of_single_looks() -> None:
    alone = keys_of(list(Stream(7, seed=3, batch_size=6, stop=7)))  # 42 looks: 6 epochs
    together = keys_of(list(Stream(7, seed=3, batch_size=6, clips_per_decode=3, stop=7)))
    assert sorted(together) == sorted(alone)
    for at in range(0, 42, 3):
        first = together[at]
        assert first.epoch % 3 == 0
        assert together[at : at + 3] == [(first.epoch + r, first.row) for r in range(3)]
    assert [key.row for key in together[:21:3]] == epoch_order(7, 3, 0).tolist()
    assert [key.row for key in together[21::3]] == epoch_order(7, 3, 1).tolist()


def test_the_order_of_clips_that_share_a_decode_is_written_down() -> None:
    assert list(Stream(3, seed=0, batch_size=4, clips_per_decode=2, stop=4)) == [
        [(0, 2), (1, 2), (0, 0), (1, 0)],
        [(0, 1), (1, 1), (2, 2), (3, 2)],
        [(2, 0), (3, 0), (2, 1), (3, 1)],
        [(4, 2), (5, 2), (4, 1), (5, 1)],
    ]


def test_a_data_set_smaller_than_a_batch() -> None:
    (batch,) = Stream(2, seed=0, batch_size=5, stop=1)
    assert [key.epoch for key in batch] == [0, 0, 1, 1, 2]
    assert {key.row for key in batch[:2]} == {key.row for key in batch[2:4]} == {0, 1}
    assert list(Stream(1, seed=0, batch_size=2, stop=1)) == [[(0, 0), (1, 0)]]


@pytest.mark.parametrize("shared", [1, 2])
@pytest.mark.parametrize("world", [2, 3])
def test_what_a_step_sees_does_not_depend_on_the_number_of_ranks(world: int, shared: int) -> None:
    def stream(rank: int, world: int) -> Stream:
        size = 12 // world
        return Stream(
            11, seed=5, batch_size=size, rank=rank, world=world, clips_per_decode=shared, stop=8
        )

    alone = list(stream(0, 1))
    shares = [list(stream(rank, world)) for rank in range(world)]
    together = [keys_of(list(step)) for step in zip(*shares, strict=True)]
    assert together == alone


def test_accumulated_micro_batches_see_what_one_batch_does() -> None:
    whole = list(Stream(11, seed=5, batch_size=6, stop=4))
    micro = list(Stream(11, seed=5, batch_size=2, stop=12))
    assert [keys_of(micro[i : i + 3]) for i in range(0, 12, 3)] == whole


@settings(max_examples=60, deadline=None)
@given(
    num_samples=st.integers(1, 40),
    batch_size=st.integers(1, 9),
    world=st.integers(1, 4),
    start=st.integers(0, 30),
    seed=st.integers(0, 2**40),
    shared=st.integers(1, 3),
)
def test_starting_later_is_the_rest_of_the_stream(
    num_samples: int, batch_size: int, world: int, start: int, seed: int, shared: int
) -> None:
    for rank in range(world):
        options: Any = {
            "seed": seed,
            "batch_size": batch_size * shared,
            "rank": rank,
            "world": world,
            "clips_per_decode": shared,
        }
        whole, later = Stream(num_samples, **options), Stream(num_samples, start=start, **options)
        assert list(islice(whole, start, start + 5)) == list(islice(later, 5))


def test_stop_counts_micro_batches_of_the_whole_stream() -> None:
    assert len(list(Stream(10, seed=0, batch_size=2, start=3, stop=8))) == 5
    assert list(Stream(10, seed=0, batch_size=2, start=8, stop=8)) == []


def test_a_stream_can_be_read_twice() -> None:
    stream = Stream(10, seed=0, batch_size=3, stop=9)
    assert list(stream) == list(stream)


def test_keys_are_plain_integers_that_travel_to_workers() -> None:
    (batch,) = Stream(3, seed=0, batch_size=3, stop=1)
    assert all(type(number) is int for key in batch for number in key)
