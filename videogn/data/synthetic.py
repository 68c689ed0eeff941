"""A synthetic data set whose class shows only over time, for tests, the demo and small studies.

Every clip shows one object: a shape in a colour, with a white ear that makes rotation visible. Its
state is four numbers: x, y, log size, angle. Each lives on a circle (what leaves the picture on the
left enters on the right; what has grown to the largest size goes on from the smallest) and starts
anywhere with equal probability. The class says which one of the four changes, and which way:

    left -x   right +x   up -y   down +y   clockwise +angle   ...   grow +size   shrink -size

At constant speed on a circle a uniform distribution stays uniform. So at every time, not only in
the middle, a still frame has the same distribution whatever the class: it says nothing about it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from videogn.data.manifest import write_manifest, write_text

MOTIONS: tuple[str, ...] = (
    "left",
    "right",
    "up",
    "down",
    "clockwise",
    "counterclockwise",
    "grow",
    "shrink",
)
_SHAPES = ("disc", "ring", "bar")
_COLOURS = {"red": (235, 100, 75), "blue": (95, 150, 235)}  # RGB, equally bright
APPEARANCES: tuple[str, ...] = tuple(f"{colour} {s}" for s in _SHAPES for colour in _COLOURS)

# Sizes and speeds for frames of 64x64 pixels; lengths scale with the frame. Every motion is below
# half of its circle over four frames, so that a network may skip three of four. On 480 clips a thin
# residual network reached 89, 86 and 17 % (three seeds) in 12 epochs, 30 CPU seconds: it learns
# after a plateau whose length varies.
_RADIUS = (8.0, 16.0)  # pixels
_SHIFT = (1.0, 2.0)  # pixels per frame
_TURN = (0.1, 0.2)  # radians per frame
_GROWTH = (0.03, 0.05)  # natural logarithm of the size, per frame
# Motion -> (the number that changes: 0 x, 1 y, 2 log size, 3 angle; sign). Pixel rows count down
# and an angle grows from x to y, so it grows clockwise.
CHANGES = ((0, -1), (0, 1), (1, -1), (1, 1), (3, 1), (3, -1), (2, 1), (2, -1))


def render_clip(
    motion: int, appearance: int, *, num_frames: int, size: int, rng: np.random.Generator
) -> np.ndarray:
    """uint8 (num_frames, size, size, 3) RGB: an object moving as `MOTIONS[motion]` says.

    `appearance` indexes `APPEARANCES`. Position, size, angle, speed, light, background and noise
    are drawn from `rng`; equal arguments give equal pixels.
    """
    shape, colour = divmod(appearance, len(_COLOURS))
    x, y, radius, angle = _trajectory(motion, num_frames, size, rng)
    u, v = _object_coordinates(x, y, radius, angle, size)
    body = _coverage(_DISTANCES[shape](u, v), radius)
    ear = _coverage(np.hypot(u - 1.05, v) - 0.42, radius)

    paint = (list(_COLOURS.values())[colour] + rng.uniform(-20, 20, 3)).astype(np.float32)
    background = _background(size, rng)
    picture = background + body[..., None] * (paint - background)
    picture += ear[..., None] * (np.float32(245) - picture)
    picture *= np.float32(rng.uniform(0.75, 1.05))
    # The same noise in all three channels: colour noise would be lost in 4:2:0 anyway.
    noise = rng.standard_normal((num_frames, size, size, 1), dtype=np.float32)
    picture += noise * np.float32(rng.uniform(0.5, 2.5))
    return picture.clip(0, 255).astype(np.uint8)


def _trajectory(
    motion: int, num_frames: int, size: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, radius in pixels and angle in radians of the object: float64 (T,) each."""
    scale = size / 64
    low, high = np.log(_RADIUS)
    circles = np.array([size, size, high - low, 2 * np.pi])
    speeds = ((_SHIFT[0] * scale, _SHIFT[1] * scale),) * 2 + (_GROWTH, _TURN)
    number, sign = CHANGES[motion]
    velocity = np.zeros(4)
    velocity[number] = sign * rng.uniform(*speeds[number])
    state = rng.uniform(0, circles) + velocity * np.arange(num_frames)[:, None]
    x, y, log_size, angle = (state % circles).T
    return x, y, np.exp(low + log_size) * scale, angle


def _object_coordinates(
    x: np.ndarray, y: np.ndarray, radius: np.ndarray, angle: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every pixel as the object sees it, its axes turned, its radius 1: float32 (T, S, S) twice."""
    pixels = np.arange(size) + 0.5
    # The way round the circle that is shorter: the object may stick out over the edge.
    dx = (pixels - x[:, None] + size / 2) % size - size / 2
    dy = (pixels - y[:, None] + size / 2) % size - size / 2
    cos, sin = np.cos(angle) / radius, np.sin(angle) / radius

    def turned(along_x: np.ndarray, along_y: np.ndarray) -> np.ndarray:
        across, down = dx * along_x[:, None], dy * along_y[:, None]
        return across.astype(np.float32)[:, None, :] + down.astype(np.float32)[:, :, None]

    return turned(cos, sin), turned(-sin, cos)


def _disc(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.hypot(u, v) - np.float32(1)


def _ring(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return abs(np.hypot(u, v) - np.float32(0.75)) - np.float32(0.25)  # a disc with a hole of half


def _bar(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    return np.maximum(abs(u) - np.float32(1), abs(v) - np.float32(0.4))  # long towards the ear


_DISTANCES = (_disc, _ring, _bar)  # signed distance from the outline, negative inside


def _coverage(distance: np.ndarray, radius: np.ndarray) -> np.ndarray:
    """How much of each pixel lies inside, 0 to 1, from distances in radii: (T, S, S)."""
    return (np.float32(0.5) - distance * radius.astype(np.float32)[:, None, None]).clip(0, 1)


def _background(size: int, rng: np.random.Generator) -> np.ndarray:
    """A still, soft, gray-brown texture of random brightness: float32 (size, size, 3)."""
    texture = np.zeros((size, size))
    for cells in (3, 7, 15):
        places = np.linspace(0, cells, size)
        weights = np.maximum(0, 1 - abs(places[:, None] - np.arange(cells + 1)))  # linear
        texture += weights @ rng.standard_normal((cells + 1, cells + 1)) @ weights.T
    level = rng.uniform(40, 90) + rng.uniform(1, 5) * texture
    return (level[..., None] + rng.uniform(-10, 10, 3)).astype(np.float32)


def encode_video(
    path: Path,
    frames: np.ndarray,
    *,
    fps: int = 30,
    gop: int = 30,
    codec: str = "libx264",
    crf: int = 18,
    pix_fmt: str = "yuv420p",
) -> None:
    """Writes uint8 (T, H, W, 3) RGB, H and W even, as a video of `fps` frames per second.

    `gop` is the largest distance of keyframes, in frames. The suffix of `path` names the container.
    Equal arguments give equal bytes, and `path` never holds a part of a video.
    """
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        raise ValueError(f"frames of {width}x{height} pixels: both sides must be even")
    options = {"crf": str(crf)}
    if codec == "libx264":
        options["mbtree"] = "0"  # with it, bytes varied on AVX-512: 13 results in 40 runs, x264 165
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        with av.open(str(temporary), "w") as container:
            stream = container.add_stream(codec, rate=fps, options=options)
            assert isinstance(stream, av.VideoStream)
            stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
            stream.codec_context.gop_size = gop
            stream.codec_context.thread_count = 1  # more would make the bytes vary
            for number, image in enumerate(frames):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_synthetic(
    root: Path,
    *,
    train: int,
    val: int,
    num_frames: int = 32,
    size: int = 64,
    seed: int = 0,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> None:
    """Writes a data root of `train` and `val` clips, with an extra column `appearance`.

    Classes and appearances are balanced over their product, as far as the numbers divide. A clip
    depends on `seed`, its split and its number only, so a larger set begins with the smaller one.
    `progress` wraps the iteration over all clips, for a progress bar.
    """
    (root / "videos").mkdir(parents=True, exist_ok=True)
    rows: dict[str, list[dict[str, str]]] = {"train": [], "val": []}
    for count in progress(range(train + val)):
        split, number = ("train", count) if count < train else ("val", count - train)
        motion, appearance = _labels(number)
        rng = np.random.default_rng([seed, split == "val", number])
        frames = render_clip(motion, appearance, num_frames=num_frames, size=size, rng=rng)
        path = f"videos/{split}_{number:05d}.mp4"
        encode_video(root / path, frames)
        labels = {"label": MOTIONS[motion], "appearance": APPEARANCES[appearance]}
        rows[split].append({"path": path, **labels})
    write_text(root / "appearances.txt", "".join(f"{name}\n" for name in APPEARANCES))
    write_manifest(root, splits=rows, classes=MOTIONS, source=None)


def _labels(number: int) -> tuple[int, int]:
    """Motion and appearance of clip `number`.

    The motion runs fastest; each round over the motions shifts the appearances by one. So any first
    48 clips hold every pair once, and any first n hold nearly as many of each motion and of each
    appearance.
    """
    rounds, motion = divmod(number, len(MOTIONS))
    return motion, (motion + rounds) % len(APPEARANCES)
