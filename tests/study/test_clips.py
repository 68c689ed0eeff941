"""Made-up clips: each a function of its row, its class in the motion alone, light as asked for."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from videogn.data.synthetic import MOTIONS
from videogn.study.clips import Look, MotionClips, _trajectory

LOOK = Look(num_frames=4, size=32)


def test_a_clip_is_a_function_of_its_row() -> None:
    clips = MotionClips(3, "train", 16, LOOK)
    together = clips.render([1, 9, 2])
    assert together.shape == (3, 3, 4, 32, 32)
    assert together.dtype == torch.float32
    torch.testing.assert_close(clips.render([9]), together[1:2])


def test_a_larger_split_begins_with_the_smaller() -> None:
    small, large = MotionClips(3, "train", 16, LOOK), MotionClips(3, "train", 40, LOOK)
    assert torch.equal(small.labels, large.labels[:16])
    assert torch.equal(small.render(range(16)), large.render(range(16)))


@pytest.mark.parametrize(("seed", "split"), [(4, "train"), (3, "val"), (3, "test")])
def test_other_seeds_and_splits_have_other_clips(seed: int, split: str) -> None:
    one, other = MotionClips(3, "train", 8, LOOK), MotionClips(seed, split, 8, LOOK)
    assert not torch.equal(one.labels, other.labels)
    assert (one.render(range(8)) - other.render(range(8))).abs().amax((1, 2, 3, 4)).min() > 0.1


def test_a_first_frame_is_the_same_whatever_the_class() -> None:
    clips = MotionClips(0, "train", 8, LOOK)
    rendered = []
    for motion in range(len(MOTIONS)):
        clips.labels.fill_(motion)
        rendered.append(clips.render(range(8)))
    for one, other in pairwise(rendered):
        assert torch.equal(one[:, :, 0], other[:, :, 0])
        assert ((one - other)[:, :, 1].abs().amax((1, 2, 3)) > 0.05).all()


@pytest.mark.parametrize("motion", range(len(MOTIONS)))
def test_objects_move_as_the_class_says(motion: int) -> None:
    look = replace(LOOK, num_frames=2)
    draws = torch.full((1, 11), 0.5)  # the middle of everything: nothing leaves its circle
    x, y, radius, angle = (state[0] for state in _trajectory(torch.tensor([motion]), draws, look))
    change = {
        "left": -(x[1] - x[0]), "right": x[1] - x[0],
        "up": -(y[1] - y[0]), "down": y[1] - y[0],
        "clockwise": angle[1] - angle[0], "counterclockwise": -(angle[1] - angle[0]),
        "grow": radius[1] - radius[0], "shrink": -(radius[1] - radius[0]),
    }  # fmt: skip
    assert change[MOTIONS[motion]] > 0.1
    moved = sum(not torch.equal(state[0], state[1]) for state in (x, y, radius, angle))
    assert moved == 1


def test_clips_of_a_video_share_their_light_and_videos_do_not() -> None:
    level = MotionClips(0, "train", 80, LOOK).render(range(80)).std((1, 2, 3, 4)).log()
    by_video = level.view(10, 8)
    assert by_video.std(1).max() < 0.2
    assert by_video.mean(1).std() > 0.3
    weak = MotionClips(0, "train", 80, replace(LOOK, light=0.25)).render(range(80))
    assert weak.std((1, 2, 3, 4)).log().view(10, 8).mean(1).std() < 0.2


def test_standardizing_takes_the_light_away() -> None:
    look = replace(LOOK, standardize=True)
    clips = MotionClips(0, "train", 16, look).render(range(16))
    zero, one = torch.zeros(16), torch.ones(16)
    torch.testing.assert_close(clips.mean((1, 2, 3, 4)), zero, atol=1e-5, rtol=0)
    torch.testing.assert_close(clips.std((1, 2, 3, 4)), one, atol=1e-5, rtol=0)
