"""Crops lie where they should, scale as resize-then-crop does, and numbers reach the network."""

from __future__ import annotations

from typing import Any, Literal, get_args
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from videogn.data import transforms
from videogn.data.transforms import (
    Crops,
    eval_crops,
    resize,
    short_side_size,
    to_network,
    train_crop,
)

SHAPES = [(256, 340), (340, 256), (256, 256), (241, 433), (120, 90)]


class Chosen:
    """Draws that are chosen: a short side, and where in [0, 1) the others fall."""

    def __init__(self, target: int, across: float, down: float, mirror: float = 0.99) -> None:
        self.target, self.numbers = target, [across, down, mirror]

    def integers(self, low: int, high: int) -> int:
        assert low <= self.target < high
        return self.target

    def random(self) -> float:
        return self.numbers.pop(0)


def chosen(target: int, across: float, down: float, mirror: float = 0.99) -> Any:
    return Chosen(target, across, down, mirror)


def smooth_frames(height: int, width: int, num_frames: int = 1) -> np.ndarray:
    """uint8 (T, H, W, 3): waves of 80 pixels and more, at most 2.4 grey levels a pixel."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 25) + np.cos(y / 20), np.sin((x + y) / 30), np.cos((x - 2 * y) / 40)]
    frame = np.stack([128 + 30 * wave for wave in waves], axis=-1)
    return np.stack([(frame + 5 * t).round().astype(np.uint8) for t in range(num_frames)])


def position_frames(height: int, width: int) -> np.ndarray:
    """uint8 (1, H, W, 3): red counts columns, green rows, from 0; sides up to 256."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x, y, 0 * x], axis=-1).astype(np.uint8)[None]


@pytest.mark.parametrize(("height", "width"), SHAPES)
@pytest.mark.parametrize("target", [256, 287, 320])
def test_a_crop_is_what_resizing_first_and_cropping_then_gives(
    height: int, width: int, target: int
) -> None:
    """Within half a grey level on average (0.41 at worst): the box has whole source pixels."""
    frames = smooth_frames(height, width)
    rows, columns = short_side_size(height, width, target)
    whole = resize(torch.from_numpy(frames), rows, columns)
    for across, down in [(0.0, 0.0), (0.3, 0.8), (0.999, 0.999)]:
        got = train_crop(
            frames,
            short_side=(256, 320),
            crop_size=224,
            flip=0.5,
            rng=chosen(target, across, down),
        )
        top, left = int(down * (rows - 223)), int(across * (columns - 223))
        expected = whole[:, top : top + 224, left : left + 224]
        assert expected.shape == got.shape == (1, 224, 224, 3)
        assert (got.float() - expected.float()).abs().mean() < 0.5


def test_without_scaling_the_crop_is_exact() -> None:
    frames = smooth_frames(256, 340, num_frames=3)
    got = train_crop(
        frames, short_side=(256, 256), crop_size=224, flip=0.0, rng=chosen(256, 0.5, 0.25)
    )
    # 117 and 33 places to begin; half of the first is 58, a quarter of the second 8
    np.testing.assert_array_equal(got.numpy(), frames[:, 8:232, 58:282])


def test_all_frames_of_a_clip_are_cut_alike() -> None:
    still = np.repeat(smooth_frames(100, 130), 5, axis=0)
    clip = train_crop(
        still, short_side=(64, 96), crop_size=56, flip=0.5, rng=np.random.default_rng(3)
    )
    assert all(torch.equal(frame, clip[0]) for frame in clip)


def test_a_flip_mirrors_left_and_right_and_nothing_else() -> None:
    frames = smooth_frames(100, 130, num_frames=2)

    def crop(mirror: float) -> torch.Tensor:
        rng = chosen(80, 0.4, 0.6, mirror)
        return train_crop(frames, short_side=(64, 96), crop_size=56, flip=0.5, rng=rng)

    assert torch.equal(crop(0.49).flip(2), crop(0.5))
    assert not torch.equal(crop(0.49), crop(0.5))


@pytest.mark.parametrize(("flip", "mirrored"), [(0.0, 0), (1.0, 200)])
def test_never_and_always_flipping(flip: float, mirrored: int) -> None:
    frames, rng = position_frames(64, 64), np.random.default_rng(0)
    clips = [
        train_crop(frames, short_side=(64, 64), crop_size=64, flip=flip, rng=rng)
        for _ in range(200)
    ]
    assert sum(bool(clip[0, 0, 0, 0] > clip[0, 0, -1, 0]) for clip in clips) == mirrored


def test_the_same_draws_give_the_same_bytes() -> None:
    frames = smooth_frames(256, 340, num_frames=2)
    options: Any = {"short_side": (256, 320), "crop_size": 224, "flip": 0.5}
    clips = [train_crop(frames, rng=np.random.default_rng(7), **options) for _ in range(2)]
    other = train_crop(frames, rng=np.random.default_rng(8), **options)
    assert torch.equal(*clips)
    assert not torch.equal(clips[0], other)


def test_crops_reach_every_offset_of_the_frame_and_both_ends() -> None:
    frames, rng = position_frames(60, 64), np.random.default_rng(0)
    corners = set()
    for _ in range(1000):
        clip = train_crop(frames, short_side=(60, 60), crop_size=56, flip=0.0, rng=rng)
        corners.add((int(clip[0, 0, 0, 0]), int(clip[0, 0, 0, 1])))
        assert clip[0, -1, -1, :2].tolist() == [c + 55 for c in clip[0, 0, 0, :2].tolist()]
    assert corners == {(left, top) for left in range(9) for top in range(5)}


def test_both_ends_of_the_short_side_are_drawn() -> None:
    frames, rng = smooth_frames(64, 64), np.random.default_rng(0)
    widths = set()
    with mock.patch.object(transforms, "resize", side_effect=resize) as spy:
        for _ in range(60):
            train_crop(frames, short_side=(64, 66), crop_size=64, flip=0.0, rng=rng)
            widths.add(spy.call_args.args[0].shape[2])
    assert widths == {64, 63, 62}  # round(64 * 64 / target), for 64, 65 and 66


def boxes_cut(frames: np.ndarray, **options: Any) -> list[tuple[int, int]]:
    """(height, width) of the boxes that `train_crop` hands to `resize`, one call."""
    with mock.patch.object(transforms, "resize", side_effect=resize) as spy:
        clip = train_crop(frames, **options)
    size = options["crop_size"]
    assert clip.shape == (len(frames), size, size, 3)
    assert clip.dtype == torch.uint8
    return [tuple(call.args[0].shape[1:3]) for call in spy.call_args_list]


@settings(max_examples=150, deadline=None)
@given(
    height=st.integers(1, 400),
    width=st.integers(1, 400),
    crop=st.integers(1, 40),
    slack=st.integers(0, 20),
    across=st.floats(0, 1, exclude_max=True),
    down=st.floats(0, 1, exclude_max=True),
)
@example(height=1, width=1, crop=40, slack=0, across=0.999999, down=0.999999)
@example(height=1, width=400, crop=40, slack=20, across=0.999999, down=0.0)
@example(height=39, width=37, crop=40, slack=0, across=0.999999, down=0.999999)
@example(height=333, width=35, crop=7, slack=1, across=1 - 2**-53, down=1 - 2**-53)
def test_a_crop_never_leaves_the_frame(
    height: int, width: int, crop: int, slack: int, across: float, down: float
) -> None:
    """Slices past the end would be cut short in silence, and the picture distorted."""
    target = crop + slack
    rows, columns = short_side_size(height, width, target)
    (box,) = boxes_cut(
        np.zeros((1, height, width, 3), np.uint8),
        short_side=(crop, target),
        crop_size=crop,
        flip=0.0,
        rng=chosen(target, across, down),
    )
    assert box == (max(round(crop * height / rows), 1), max(round(crop * width / columns), 1))


@pytest.mark.parametrize(
    ("height", "width", "short_side", "expected"),
    [
        (240, 320, 256, (256, 341)),  # 341.3
        (320, 240, 256, (341, 256)),
        (1080, 1920, 256, (256, 455)),  # 455.1
        (256, 256, 256, (256, 256)),
        (256, 340, 256, (256, 340)),  # as it is
        (360, 481, 256, (256, 342)),  # 342.04
        (359, 480, 256, (256, 342)),  # 342.3
        (3, 2, 7, (10, 7)),  # 10.5: truncated, not rounded
        (1, 1, 256, (256, 256)),
        (1, 3, 256, (256, 768)),
    ],
)
def test_the_long_side_is_truncated(
    height: int, width: int, short_side: int, expected: tuple[int, int]
) -> None:
    assert short_side_size(height, width, short_side) == expected


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 700))
def test_the_short_side_is_exact_and_the_other_never_shorter(
    height: int, width: int, short_side: int
) -> None:
    rows, columns = short_side_size(height, width, short_side)
    assert min(rows, columns) == short_side
    assert (rows <= columns) if height <= width else (rows >= columns)
    long = max(height, width) * short_side // min(height, width)
    assert max(rows, columns) == long


def test_resizing_to_the_same_size_changes_nothing() -> None:
    frames = torch.from_numpy(smooth_frames(31, 47, num_frames=2))
    assert torch.equal(resize(frames, 31, 47), frames)
    turned = frames.transpose(1, 2)
    assert resize(turned, 47, 31).is_contiguous()


def test_resizing_keeps_type_layout_and_flat_colours() -> None:
    flat = torch.tensor([3, 128, 255], dtype=torch.uint8).expand(2, 20, 30, 3)
    for size in [(10, 15), (47, 31), (1, 1)]:
        got = resize(flat, *size)
        assert got.dtype == torch.uint8
        assert got.is_contiguous()
        assert torch.equal(got, flat[:1, :1, :1].expand(2, *size, 3))


def test_shrinking_averages_instead_of_skipping_pixels() -> None:
    """A board of single black and white pixels becomes grey, where skipping would keep it."""
    board = torch.from_numpy(np.indices((64, 64)).sum(0) % 2 * 255).to(torch.uint8)
    small = resize(board[None, :, :, None].expand(1, 64, 64, 3), 16, 16).float()
    assert (small - 127.5).abs().max() < 8


BOXES: dict[tuple[int, int, Crops], list[tuple[int, int, int, int]]] = {
    (256, 340, "full"): [(0, 0, 256, 340)],
    (340, 256, "full"): [(0, 0, 340, 256)],
    (256, 256, "full"): [(0, 0, 256, 256)],
    (256, 340, "center"): [(16, 58, 224, 224)],
    (340, 256, "center"): [(58, 16, 224, 224)],
    (256, 256, "center"): [(16, 16, 224, 224)],
    (256, 341, "center"): [(16, 58, 224, 224)],
    # k ((long - 256) // 2), k = 0, 1, 2: with an odd rest the last column is never seen
    (256, 340, "three"): [(0, 0, 256, 256), (0, 42, 256, 256), (0, 84, 256, 256)],
    (256, 341, "three"): [(0, 0, 256, 256), (0, 42, 256, 256), (0, 84, 256, 256)],
    (340, 256, "three"): [(0, 0, 256, 256), (42, 0, 256, 256), (84, 0, 256, 256)],
    (256, 256, "three"): [(0, 0, 256, 256)] * 3,
}


@pytest.mark.parametrize(("height", "width", "crops"), BOXES)
def test_boxes_are_those_of_the_table(height: int, width: int, crops: Crops) -> None:
    assert eval_crops(height, width, crops=crops, crop_size=224) == BOXES[height, width, crops]


@given(st.integers(224, 600), st.integers(224, 600), st.sampled_from(get_args(Crops)))
def test_boxes_lie_inside_the_frame(height: int, width: int, crops: Crops) -> None:
    for top, left, rows, columns in eval_crops(height, width, crops=crops, crop_size=224):
        assert 0 <= top <= top + rows <= height
        assert 0 <= left <= left + columns <= width


def test_unknown_crops_are_refused_with_the_known_ones() -> None:
    unknown: Any = "five"
    with pytest.raises(ValueError, match="'five'; known: full, center, three"):
        eval_crops(256, 340, crops=unknown, crop_size=224)


CONSTANTS: dict[Literal["nonlocal", "imagenet"], tuple[list[float], list[float]]] = {
    "nonlocal": ([0.45, 0.45, 0.45], [0.225, 0.225, 0.225]),
    "imagenet": ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}


@pytest.mark.parametrize("constants", CONSTANTS)
def test_the_network_sees_normalized_colours(constants: Literal["nonlocal", "imagenet"]) -> None:
    mean, std = CONSTANTS[constants]
    levels = torch.arange(256, dtype=torch.uint8)
    clips = torch.stack([levels, levels.flip(0), levels.roll(7)], -1).view(2, 2, 8, 8, 3)
    got = to_network(clips, mean, std)
    x = clips.double().permute(0, 4, 1, 2, 3) / 255
    expected = (x - torch.tensor(mean).double().view(3, 1, 1, 1)) / torch.tensor(std).double().view(
        3, 1, 1, 1
    )
    assert got.dtype == torch.float32
    assert got.shape == (2, 3, 2, 8, 8)
    assert got.is_contiguous()
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(1, 1, 4, 4, 3), (2, 1, 4, 4, 3), (1, 4, 8, 8, 3)])
def test_clips_are_contiguous_on_a_cpu_whatever_their_shape(shape: tuple[int, ...]) -> None:
    got = to_network(torch.zeros(shape, dtype=torch.uint8), *CONSTANTS["nonlocal"])
    assert got.stride() == torch.empty(got.shape).stride()


def test_the_clips_themselves_stay_as_they_are() -> None:
    clips = torch.full((1, 2, 4, 4, 3), 200, dtype=torch.uint8)
    to_network(clips, *CONSTANTS["imagenet"])
    assert bool((clips == 200).all())
