"""Which frames make a clip: integers in, integers out, no video in sight.

A clip of L = num_frames frames at stride r covers a span of L * r frames of a video with N.

    N = 12, L = 3, r = 2, start 4      . . . . f . f . f . . .
    the same, start 9: looped          . f . . . . . . . f . f
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

ClipRule = Literal["nonlocal", "slowfast", "mmaction"]
CLIP_RULES: tuple[str, ...] = get_args(ClipRule)


def frame_indices(start: int, num_frames: int, stride: int, video_frames: int) -> list[int]:
    """Returns the indices of a clip's frames: `start + i * stride`, modulo the video.

    A clip that runs past the end goes on at the beginning, as in video-nonlocal-net
    (`customized_video_io.cc`) and MMAction2 (`out_of_bound_opt="loop"`).

    Raises:
        ValueError: the video has no frame.
    """
    _require_frames(video_frames)
    return [(start + i * stride) % video_frames for i in range(num_frames)]


def random_start(video_frames: int, span: int, rng: np.random.Generator) -> int:
    """Returns a start drawn uniformly from 0 to `video_frames - span` inclusive, 0 if shorter."""
    return int(rng.integers(0, max(video_frames - span, 0) + 1))


def clip_starts(video_frames: int, span: int, num_clips: int, rule: ClipRule) -> list[int]:
    """Returns the first frames of the regularly spaced clips of a test.

    For N = 300 frames and a span of 64:

        nonlocal   floor(N j / V) mod N            0, 30, .., 270: the last clips loop
        slowfast   floor((N - span) j / V)         0, 23, .., 212: never reaches the end
        mmaction   round((N - span) j / (V - 1))   0, 26, .., 236: both ends; half to even

    `mmaction` wants its own span, `(L - 1) r + 1`: the last gap of a clip is no part of it.

    Args:
        video_frames: N.
        span: frames that a clip covers.
        num_clips: V.
        rule: the codebase whose protocol is followed.

    Raises:
        ValueError: the video has no frame, or an unknown rule.
    """
    _require_frames(video_frames)
    room = max(video_frames - span, 0)
    match rule:
        case "nonlocal":
            return [int(video_frames / num_clips * j) % video_frames for j in range(num_clips)]
        case "slowfast":
            return [int(room * j / num_clips) for j in range(num_clips)]
        case "mmaction":
            if num_clips == 1:
                return [room // 2]
            return [round(room / (num_clips - 1) * j) for j in range(num_clips)]
    raise ValueError(f"unknown clip rule {rule!r}; known: {', '.join(CLIP_RULES)}")


def eval_clips(
    video_frames: int, *, num_frames: int, stride: int, num_clips: int, rule: ClipRule
) -> list[list[int]]:
    """Returns the frame indices of every clip of a test: `num_clips` lists of `num_frames`.

    `slowfast` also picks the frames within a clip in its own way: evenly from the first to the
    last of the span's frames, both included (a stride of 63/31 for 32x2), rounded down, and
    clamped to the video's end instead of looped.

    Raises:
        ValueError: the video has no frame, or an unknown rule.
    """
    if rule == "slowfast":
        return _slowfast_clips(video_frames, num_frames, num_frames * stride, num_clips)
    span = (num_frames - 1) * stride + 1 if rule == "mmaction" else num_frames * stride
    starts = clip_starts(video_frames, span, num_clips, rule)
    return [frame_indices(start, num_frames, stride, video_frames) for start in starts]


def _slowfast_clips(
    video_frames: int, num_frames: int, span: int, num_clips: int
) -> list[list[int]]:
    _require_frames(video_frames)
    room, last = max(video_frames - span, 0), max(num_frames - 1, 1)
    return [
        [
            min(int(room * j / num_clips + i * (span - 1) / last), video_frames - 1)
            for i in range(num_frames)
        ]
        for j in range(num_clips)
    ]


def _require_frames(video_frames: int) -> None:
    if video_frames < 1:
        raise ValueError(f"a video of {video_frames} frames has no clip")
