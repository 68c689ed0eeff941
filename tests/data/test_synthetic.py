"""The class of a synthetic clip shows over time and in no still frame; a data set is balanced."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from videogn.data.decode import open_video
from videogn.data.manifest import read_manifest
from videogn.data.synthetic import (
    APPEARANCES,
    MOTIONS,
    _trajectory,
    encode_video,
    render_clip,
    write_synthetic,
)


def trajectories(motion: str, count: int, num_frames: int = 12) -> np.ndarray:
    """float64 (count, 4, T): x, y, radius, angle of `count` clips."""
    rng = np.random.default_rng(0)
    number = MOTIONS.index(motion)
    return np.stack([_trajectory(number, num_frames, 64, rng) for _ in range(count)])


@pytest.mark.parametrize("motion", MOTIONS)
def test_one_number_changes_and_in_the_direction_of_the_class(motion: str) -> None:
    which, sign = {
        "left": (0, -1),
        "right": (0, 1),
        "up": (1, -1),  # rows count down
        "down": (1, 1),
        "grow": (2, 1),
        "shrink": (2, -1),
        "clockwise": (3, 1),  # from x to y, which points down
        "counterclockwise": (3, -1),
    }[motion]
    steps = np.diff(trajectories(motion, 50), axis=-1)
    # A step the other way is the one over the end of the circle: rare, and far.
    assert (np.sign(np.median(steps[:, which], axis=-1)) == sign).all()
    assert np.mean(np.sign(steps[:, which]) == sign) > 0.85
    assert not steps[:, [n for n in range(4) if n != which]].any()


@pytest.mark.parametrize("frame", [0, 6, 11])
def test_no_still_frame_tells_the_class(frame: int) -> None:
    # Two-sample Kolmogorov-Smirnov distance between each class and all others, on every number:
    # for equal distributions it is below 1.95 sqrt((n + m) / nm) at a level of 0.001.
    states = {motion: trajectories(motion, 400)[:, :, frame] for motion in MOTIONS}
    for motion, number in product(MOTIONS, range(4)):
        own = np.sort(states[motion][:, number])
        rest = np.sort(np.concatenate([s[:, number] for m, s in states.items() if m != motion]))
        at = np.concatenate([own, rest])
        distance = np.abs(
            np.searchsorted(own, at, "right") / len(own)
            - np.searchsorted(rest, at, "right") / len(rest)
        ).max()
        n, m = len(own), len(rest)
        assert distance < 1.95 * np.sqrt((n + m) / (n * m)), (motion, number)


def test_pixels_follow_the_motion() -> None:
    for motion, (axis, sign) in {"left": (2, -1), "down": (1, 1)}.items():
        steps = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            clip = render_clip(MOTIONS.index(motion), 0, num_frames=8, size=64, rng=rng)
            centre = circular_centre(clip, axis)
            step = (np.diff(centre) + 32) % 64 - 32
            steps.append(np.median(step) * sign)
        assert np.mean(np.array(steps) > 0.3) > 0.9, motion


def circular_centre(clip: np.ndarray, axis: int) -> np.ndarray:
    """float64 (T,): where the red object lies along `axis` (1 rows, 2 columns), 0 to 64."""
    red = (clip[..., 0].astype(float) - clip[..., 2] > 60).sum(axis=3 - axis)
    phase = np.exp(2j * np.pi * np.arange(64) / 64)
    return np.angle(red @ phase) * 64 / (2 * np.pi)


def test_a_colour_can_be_told_from_one_still_frame() -> None:
    for appearance, name in enumerate(APPEARANCES):
        rng = np.random.default_rng(appearance)
        frame = render_clip(4, appearance, num_frames=1, size=64, rng=rng)[0].astype(float)
        difference = frame[..., 0] - frame[..., 2]  # red minus blue
        strongest = difference.flat[np.abs(difference).argmax()]
        assert (strongest > 0) == name.startswith("red")


def test_clips_depend_on_nothing_but_their_arguments() -> None:
    def clip(seed: int) -> np.ndarray:
        return render_clip(6, 2, num_frames=5, size=48, rng=np.random.default_rng(seed))

    assert clip(0).shape == (5, 48, 48, 3)
    assert clip(0).dtype == np.uint8
    np.testing.assert_array_equal(clip(0), clip(0))
    assert (clip(0) != clip(1)).any()


def test_encoding_is_deterministic_atomic_and_faithful(tmp_path: Path) -> None:
    clip = render_clip(0, 0, num_frames=10, size=64, rng=np.random.default_rng(0))
    for name in ("a.mp4", "b.mp4", "c.mkv"):
        encode_video(tmp_path / name, clip, gop=4)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4", "c.mkv"]
    with open_video(tmp_path / "c.mkv") as video:
        assert (video.num_frames, video.fps) == (10, 30)
        decoded = video.frames(range(10)).astype(float)
    assert np.abs(decoded - clip).mean() < 6  # chroma at half the resolution, crf 18


def test_a_failed_encoding_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="both sides must be even"):
        encode_video(tmp_path / "a.mp4", np.zeros((2, 15, 16, 3), np.uint8))
    with pytest.raises(ValueError, match=r"[Uu]nexpected|shape|expected"):
        encode_video(tmp_path / "a.mp4", np.zeros((2, 16, 16, 4), np.uint8))
    assert not list(tmp_path.iterdir())


def test_a_data_set_is_balanced_over_motion_and_appearance(tmp_path: Path) -> None:
    seen: list[int] = []

    def progress(clips):
        for clip in clips:
            seen.append(clip)
            yield clip

    pairs = len(MOTIONS) * len(APPEARANCES)
    write_synthetic(tmp_path, train=pairs, val=8, num_frames=3, size=16, progress=progress)
    assert seen == list(range(pairs + 8))
    train, val = read_manifest(tmp_path, "train"), read_manifest(tmp_path, "val")
    assert train.classes == MOTIONS
    assert (tmp_path / "appearances.txt").read_text().split("\n")[:-1] == list(APPEARANCES)
    found = Counter(zip(train.labels.tolist(), train.columns["appearance"], strict=True))
    assert found == dict.fromkeys(product(range(len(MOTIONS)), APPEARANCES), 1)
    assert sorted(val.labels.tolist()) == list(range(8))
    first, other = ((tmp_path / manifest.paths[0]).read_bytes() for manifest in (train, val))
    assert first != other


def test_a_larger_data_set_begins_with_the_smaller_one(tmp_path: Path) -> None:
    for name, train in (("small", 2), ("large", 4)):
        write_synthetic(tmp_path / name, train=train, val=1, num_frames=3, size=16, seed=5)
    for path in ("videos/train_00001.mp4", "videos/val_00000.mp4"):
        small, large = (tmp_path / name / path for name in ("small", "large"))
        assert small.read_bytes() == large.read_bytes()
