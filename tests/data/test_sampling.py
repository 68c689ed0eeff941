"""Which frames make a clip, against tables written out by hand and the three peers' formulas."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any, get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videogn.data.sampling import (
    CLIP_RULES,
    ClipRule,
    clip_starts,
    eval_clips,
    frame_indices,
    random_start,
)

FRAME_COUNTS = [300, 64, 63, 10, 1]
SHAPES = [(32, 2), (64, 1)]  # (num_frames, stride) of Table 8, both a window of 64 frames

ZEROS = [0] * 10
# (rule, video frames, span) -> starts of ten clips
STARTS: dict[tuple[ClipRule, int, int], list[int]] = {
    ("nonlocal", 300, 64): [0, 30, 60, 90, 120, 150, 180, 210, 240, 270],
    ("nonlocal", 64, 64): [0, 6, 12, 19, 25, 32, 38, 44, 51, 57],
    ("nonlocal", 63, 64): [0, 6, 12, 18, 25, 31, 37, 44, 50, 56],
    ("nonlocal", 10, 64): [0, 1, 2, 3, 4, 5, 6, 7, 8, 9],
    ("nonlocal", 1, 64): ZEROS,
    ("slowfast", 300, 64): [0, 23, 47, 70, 94, 118, 141, 165, 188, 212],
    ("slowfast", 64, 64): ZEROS,
    ("slowfast", 63, 64): ZEROS,
    ("slowfast", 10, 64): ZEROS,
    ("slowfast", 1, 64): ZEROS,
    # 63 = 31 x 2 + 1 is MMAction2's span of 32x2, 64 that of 64x1
    ("mmaction", 300, 63): [0, 26, 53, 79, 105, 132, 158, 184, 211, 237],
    ("mmaction", 300, 64): [0, 26, 52, 79, 105, 131, 157, 184, 210, 236],
    ("mmaction", 64, 63): [0, 0, 0, 0, 0, 1, 1, 1, 1, 1],
    ("mmaction", 64, 64): ZEROS,
    ("mmaction", 63, 63): ZEROS,
    ("mmaction", 63, 64): ZEROS,
    ("mmaction", 10, 63): ZEROS,
    ("mmaction", 10, 64): ZEROS,
    ("mmaction", 1, 63): ZEROS,
    ("mmaction", 1, 64): ZEROS,
}

EVENS = list(range(0, 62, 2))  # 0, 2, .., 60: 31 frames
# (rule, video frames, num_frames, stride, clip) -> its frames
FRAMES: dict[tuple[ClipRule, int, int, int, int], list[int]] = {
    ("nonlocal", 300, 32, 2, 0): [*EVENS, 62],
    ("nonlocal", 300, 32, 2, 8): [*range(240, 300, 2), 0, 2],
    ("nonlocal", 300, 32, 2, 9): [*range(270, 300, 2), *range(0, 34, 2)],
    ("nonlocal", 300, 64, 1, 8): [*range(240, 300), 0, 1, 2, 3],
    ("nonlocal", 300, 64, 1, 9): [*range(270, 300), *range(34)],
    ("nonlocal", 64, 64, 1, 9): [*range(57, 64), *range(57)],
    ("nonlocal", 64, 32, 2, 9): [57, 59, 61, 63, *range(1, 57, 2)],
    ("nonlocal", 63, 32, 2, 9): [56, 58, 60, 62, *range(1, 57, 2)],
    ("nonlocal", 10, 32, 2, 9): [9, *[1, 3, 5, 7, 9] * 6, 1],
    ("nonlocal", 10, 64, 1, 0): [*range(10)] * 6 + [0, 1, 2, 3],
    ("nonlocal", 1, 64, 1, 9): [0] * 64,
    # 63 / 31 = 2 + 1/31 frames apart: twice i, plus one once the fractions add up to a frame
    ("slowfast", 300, 32, 2, 0): [*EVENS, 63],
    ("slowfast", 300, 32, 2, 1): [*range(23, 49, 2), *range(50, 88, 2)],  # from 23.6
    ("slowfast", 300, 32, 2, 9): [*range(212, 250, 2), *range(251, 277, 2)],  # from 212.4
    ("slowfast", 300, 64, 1, 9): [*range(212, 276)],
    ("slowfast", 64, 32, 2, 9): [*EVENS, 63],
    ("slowfast", 63, 32, 2, 9): [*EVENS, 62],  # clamped, where the others loop
    ("slowfast", 63, 64, 1, 5): [*range(63), 62],
    ("slowfast", 10, 32, 2, 3): [0, 2, 4, 6, 8, *[9] * 27],
    ("slowfast", 1, 32, 2, 3): [0] * 32,
    ("mmaction", 300, 32, 2, 9): [*range(237, 300, 2)],  # ends with the video's last frame
    ("mmaction", 300, 64, 1, 9): [*range(236, 300)],
    ("mmaction", 64, 32, 2, 9): [*range(1, 64, 2)],
    ("mmaction", 63, 32, 2, 9): [*EVENS, 62],
    ("mmaction", 63, 64, 1, 9): [*range(63), 0],
    ("mmaction", 10, 32, 2, 9): [0, 2, 4, 6, 8] * 6 + [0, 2],
    ("mmaction", 1, 64, 1, 9): [0] * 64,
}


def nonlocal_clips(n: int, num_frames: int, stride: int) -> list[list[int]]:
    """video-nonlocal-net: create_video_lmdb_test_multicrop.py and customized_video_io.cc."""
    starts = [int(n / 10.0 * j) % n for j in range(10)]
    return [[(start + i * stride) % n for i in range(num_frames)] for start in starts]


def slowfast_clips(n: int, num_frames: int, stride: int) -> list[list[int]]:
    """PySlowFast: datasets/decoder.py, get_start_end_idx and temporal_sampling, at equal fps."""
    size = num_frames * stride
    delta = max(n - size, 0)
    clips = []
    for j in range(10):
        start = delta * j / 10
        index = torch.linspace(start, start + size - 1, num_frames)
        clips.append(torch.clamp(index, 0, n - 1).long().tolist())
    return clips


def mmaction_clips(n: int, num_frames: int, stride: int) -> list[list[int]]:
    """MMAction2: SampleFrames in test mode with out_of_bound_opt="loop"."""
    length = (num_frames - 1) * stride + 1
    offsets = np.round(np.arange(10) * (max(n - length, 0) / float(9)))
    frames = offsets[:, None] + np.arange(num_frames)[None, :] * stride
    return np.mod(frames, n).astype(int).tolist()


PEERS: dict[str, Any] = {
    "nonlocal": nonlocal_clips,
    "slowfast": slowfast_clips,
    "mmaction": mmaction_clips,
}


@pytest.mark.parametrize(("rule", "frames", "span"), STARTS)
def test_starts_are_those_of_the_table(rule: ClipRule, frames: int, span: int) -> None:
    assert clip_starts(frames, span, 10, rule) == STARTS[rule, frames, span]


@pytest.mark.parametrize(("rule", "frames", "num_frames", "stride", "clip"), FRAMES)
def test_frames_are_those_of_the_table(
    rule: ClipRule, frames: int, num_frames: int, stride: int, clip: int
) -> None:
    clips = eval_clips(frames, num_frames=num_frames, stride=stride, num_clips=10, rule=rule)
    assert clips[clip] == FRAMES[rule, frames, num_frames, stride, clip]


@pytest.mark.parametrize(("num_frames", "stride"), SHAPES)
@pytest.mark.parametrize("rule", CLIP_RULES)
def test_every_clip_is_the_peers(rule: ClipRule, num_frames: int, stride: int) -> None:
    for frames in [*FRAME_COUNTS, *range(1, 1000, 17)]:
        clips = eval_clips(frames, num_frames=num_frames, stride=stride, num_clips=10, rule=rule)
        assert clips == PEERS[rule](frames, num_frames, stride), f"{frames} frames"


@pytest.mark.parametrize("rule", CLIP_RULES)
def test_a_clip_begins_where_its_start_is(rule: ClipRule) -> None:
    for frames in FRAME_COUNTS:
        for num_frames, stride in SHAPES:
            span = (num_frames - 1) * stride + 1 if rule == "mmaction" else num_frames * stride
            clips = eval_clips(
                frames, num_frames=num_frames, stride=stride, num_clips=10, rule=rule
            )
            assert [clip[0] for clip in clips] == clip_starts(frames, span, 10, rule)


def test_a_single_clip_starts_at_the_beginning_or_in_the_middle() -> None:
    assert clip_starts(300, 64, 1, "nonlocal") == [0]
    assert clip_starts(300, 64, 1, "slowfast") == [0]
    assert clip_starts(300, 63, 1, "mmaction") == [118]  # 237 // 2
    assert clip_starts(10, 64, 1, "mmaction") == [0]


def test_a_clip_of_one_frame() -> None:
    for rule in get_args(ClipRule):
        clips = eval_clips(300, num_frames=1, stride=1, num_clips=3, rule=rule)
        assert [len(clip) for clip in clips] == [1, 1, 1]


def test_frames_loop_as_often_as_needed() -> None:
    assert frame_indices(9, 3, 2, 12) == [9, 11, 1]
    assert frame_indices(0, 7, 1, 3) == [0, 1, 2, 0, 1, 2, 0]
    assert frame_indices(2, 4, 5, 3) == [2, 1, 0, 2]


@pytest.mark.parametrize("rule", CLIP_RULES)
def test_a_video_without_frames_is_refused(rule: ClipRule) -> None:
    with pytest.raises(ValueError, match="video of 0 frames"):
        eval_clips(0, num_frames=4, stride=1, num_clips=2, rule=rule)
    with pytest.raises(ValueError, match="video of 0 frames"):
        clip_starts(0, 4, 2, rule)
    with pytest.raises(ValueError, match="video of 0 frames"):
        frame_indices(0, 4, 1, 0)


def test_an_unknown_rule_is_refused_with_the_known_ones() -> None:
    unknown: Any = "pytorchvideo"
    with pytest.raises(ValueError, match=r"'pytorchvideo'; known: nonlocal, slowfast, mmaction"):
        clip_starts(300, 64, 10, unknown)


@settings(max_examples=150, deadline=None)
@given(
    frames=st.integers(1, 2000),
    num_frames=st.integers(1, 80),
    stride=st.integers(1, 9),
    num_clips=st.integers(1, 30),
    rule=st.sampled_from(get_args(ClipRule)),
)
def test_clips_are_complete_inside_and_in_order(
    frames: int, num_frames: int, stride: int, num_clips: int, rule: ClipRule
) -> None:
    clips = eval_clips(frames, num_frames=num_frames, stride=stride, num_clips=num_clips, rule=rule)
    assert [len(clip) for clip in clips] == [num_frames] * num_clips
    assert all(0 <= index < frames for clip in clips for index in clip)
    starts = [clip[0] for clip in clips]
    assert starts == sorted(starts)
    if num_clips > 1:
        assert starts[0] == 0
    if rule != "nonlocal" and frames >= num_frames * stride:  # these two never loop then
        assert all(clip == sorted(clip) for clip in clips)
    if rule != "slowfast":
        assert all(
            (after - before - stride) % frames == 0
            for clip in clips
            for before, after in pairwise(clip)
        )


def test_random_starts_reach_both_ends_and_no_further() -> None:
    rng = np.random.default_rng(0)
    drawn = Counter(random_start(12, 8, rng) for _ in range(5000))
    assert sorted(drawn) == [0, 1, 2, 3, 4]
    # 1000 of each expected, with a standard deviation of 28
    assert all(abs(count - 1000) < 150 for count in drawn.values())


@pytest.mark.parametrize("frames", [1, 7, 8])
def test_a_video_no_longer_than_the_span_starts_at_its_beginning(frames: int) -> None:
    rng = np.random.default_rng(0)
    assert {random_start(frames, 8, rng) for _ in range(50)} == {0}


def test_a_random_start_costs_a_draw_whatever_the_length() -> None:
    """So that what is drawn after it does not depend on whether the video is short."""
    after = []
    for frames in (300, 100):
        rng = np.random.default_rng(0)
        random_start(frames, 64, rng)
        after.append(rng.random())
    assert after[0] == after[1]
