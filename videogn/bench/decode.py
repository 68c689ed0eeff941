"""`run.py bench decode`: our reader beside its peers, and beside decoding alone.

Every ratio compares medians of CPU time of one run, clips starting at the same frames. `raw` is
decoding without converting a frame: what no reader can beat, except by not decoding at all.
"""

from __future__ import annotations

import importlib
import json
import resource
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from videogn.bench.footage import FPS, FRAMES, write_footage
from videogn.bench.rounds import Contestants, cpu_seconds, environment
from videogn.data.dataset import ViewSpec, read_views
from videogn.data.decode import open_video
from videogn.data.pyav_reader import forget_indices
from videogn.data.sampling import clip_starts, frame_indices
from videogn.data.transforms import resize, short_side_size, train_crop
from videogn.errors import ConfigError, VideoDecodeError

PACKAGES = ("torch", "av", "decord", "torchcodec", "pytorchvideo", "numpy")
_STARTS = (216, 98, 194)  # of the clips, frames; early, middle and late in their GOPs
_GOPS = (12, 30, 250)
_BATCHES = 8  # batches that a worker sends
_RAW = "raw, whole file"
_OURS = "ours, index in the manifest"
_SPAN = "raw decode of the span alone / ours"

_LEGEND = (
    "CPU time. Ratios: above 1 ours is faster; wanted: the least this project asks of itself.\n"
    "The raw decode of a span is its share, by frames, of that of the whole file."
)

Clips = list[list[int]]  # frames of each clip


@dataclass
class Section:
    """One comparison.

    Attributes:
        title: what is done.
        ms: median CPU milliseconds by contestant.
        ratios: [what, ratio, least wanted or None], higher is better.
        notes: what is missing, and why.
    """

    title: str
    ms: dict[str, float]
    ratios: list[tuple[str, float, float | None]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def compare(self, what: str, slower: float, faster: float, aim: float | None) -> None:
        """Notes the ratio of two of the times."""
        self.ratios.append((what, round(slower / faster, 3), aim))


def bench_decode(out: Path | None, rounds: int, source: Path | None = None) -> str:
    """Measures, writes JSON to `out` if given, and returns a table.

    The footage is that of the video `source`, encoded anew, or made up. Clips of `source` are also
    read from the file as it is.
    """
    torch.set_num_threads(1)
    sections = []
    with tempfile.TemporaryDirectory() as folder:
        files = {
            gop: write_footage(Path(folder) / f"{gop}.mp4", gop=gop, source=source) for gop in _GOPS
        }
        for gop, path in files.items():
            for num_frames, stride in ((32, 2), (64, 1)):
                sections.append(_one_clip(path, gop, num_frames, stride, rounds))
        if source is not None:
            sections.append(_clip_as_stored(source, rounds))
        sections.append(_ten_clips(files[30], rounds))
        sections.append(_augmentation(rounds))
        sections.append(_transport())
    if out is not None:
        record = {
            **environment(PACKAGES),
            "rounds": rounds,
            "footage": source.name if source else "made up",
            "sections": [asdict(section) for section in sections],
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return "\n".join([*(line for section in sections for line in _lines(section)), _LEGEND])


def _lines(section: Section) -> Iterator[str]:
    yield section.title
    for name, ms in section.ms.items():
        yield f"    {name:42} {ms:9.1f} ms"
    for what, ratio, aim in section.ratios:
        wanted = "" if aim is None else f"   (wanted: {aim:g})"
        yield f"    {what:42} {ratio:9.2f} x{wanted}"
    for note in section.notes:
        yield f"    {note}"
    yield ""


# One training clip


def _one_clip(path: Path, gop: int, num_frames: int, stride: int, rounds: int) -> Section:
    clips = [[start + stride * i for i in range(num_frames)] for start in _STARTS]
    contestants = _readers(path, clips)
    contestants["PyAV, converting frame by frame"] = lambda: [_convert(path, c) for c in clips]
    with suppress(ImportError):
        contestants["pytorchvideo EncodedVideo"] = _pytorchvideo_clips(path, clips)
    section = Section(f"{len(clips)} clips of {num_frames}x{stride}, 340x256, GOP {gop}", {})
    long_gop, strided = gop > 100, stride == 2
    aims = {
        _SPAN: None if long_gop else (0.75 if strided else 0.7),
        "decord": 1.35 if long_gop else 1.2,
        "torchcodec": 1.3 if long_gop else 0.95,
        "pytorchvideo EncodedVideo": 2.4,
    }
    return _compared(section, clips, contestants, FRAMES, rounds, aims if strided else {})


def _clip_as_stored(path: Path, rounds: int) -> Section:
    """A clip of 32x2 at the start, the middle and the end of any video."""
    with open_video(path) as video:
        total = video.num_frames
        clips = [frame_indices(s, 32, 2, total) for s in clip_starts(total, 64, 3, "nonlocal")]
    section = Section(f"{len(clips)} clips of 32x2, {path.name}", {})
    return _compared(section, clips, _readers(path, clips), total, rounds, {})


def _readers(path: Path, clips: Clips) -> dict[str, Callable[[], object]]:
    """Those that read any video: decoding alone, ours, and the decoders that work here."""
    with open_video(path) as video:
        index = video.index

    def ours() -> None:
        for clip in clips:
            with open_video(path, index=index) as video:
                video.frames(clip)

    def without_index() -> None:
        for clip in clips:
            forget_indices()
            with open_video(path) as video:
                video.frames(clip)

    contestants: dict[str, Callable[[], object]] = {
        _RAW: lambda: _decode_raw(path),
        _OURS: ours,
        "ours, index from the file": without_index,
    }
    for decoder, peer in (("decord", _plain_decord), ("torchcodec", _plain_torchcodec)):
        # A video that our reader refuses to give a decoder would not be read rightly by it.
        with suppress(ConfigError, VideoDecodeError):
            open_video(path, decoder=decoder).close()
            contestants[decoder] = _each(peer(path), clips)
    return contestants


def _each(read: Callable[[Sequence[int]], object], clips: Clips) -> Callable[[], object]:
    return lambda: [read(clip) for clip in clips]


def _compared(
    section: Section,
    clips: Clips,
    contestants: Contestants,
    num_frames: int,
    rounds: int,
    aims: Mapping[str, float | None],
) -> Section:
    """`section` with the times, and the ratio of each contestant's to ours."""
    times = cpu_seconds(contestants, rounds)
    section.ms = {name: round(1000 * seconds, 2) for name, seconds in times.items()}
    span = sum(len(range(min(clip), max(clip) + 1)) for clip in clips)
    section.compare(_SPAN, times[_RAW] / num_frames * span, times[_OURS], aims.get(_SPAN))
    for name in contestants:
        if name not in (_RAW, _OURS):
            section.compare(f"{name} / ours", times[name], times[_OURS], aims.get(name))
    for name in sorted({"decord", "torchcodec"} - contestants.keys()):
        section.notes.append(f"{name} does not work here, or not on this file")
    return section


def _decode_raw(path: Path) -> None:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def _convert(path: Path, clip: Sequence[int]) -> np.ndarray:
    """What most code does: seek, and a conversion context of its own for every frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "NONE"
        stream.codec_context.thread_count = 1
        unit = round(1 / (FPS * (stream.time_base or Fraction(1, FPS))))
        container.seek(clip[0] * unit, stream=stream)
        wanted, images = set(clip), []
        for frame in container.decode(stream):
            number = (frame.pts or 0) // unit
            if number in wanted:
                images.append(frame.to_ndarray(format="rgb24"))
            if number >= clip[-1]:
                break
    assert len(images) == len(clip)
    return np.stack(images)


def _plain_decord(path: Path) -> Callable[[Sequence[int]], object]:
    """decord as its users call it: without the index that our reader on it makes first."""
    import decord

    def read(clip: Sequence[int]) -> object:
        frames = decord.VideoReader(str(path), num_threads=1).get_batch(clip)
        return frames.asnumpy() if hasattr(frames, "asnumpy") else frames

    return read


def _plain_torchcodec(path: Path) -> Callable[[Sequence[int]], object]:
    decoders = importlib.import_module("torchcodec.decoders")
    options = {"dimension_order": "NHWC", "num_ffmpeg_threads": 1, "seek_mode": "exact"}
    return lambda clip: decoders.VideoDecoder(str(path), **options).get_frames_at(list(clip))


def _pytorchvideo_clips(path: Path, clips: Clips) -> Callable[[], object]:
    from pytorchvideo.data.encoded_video import EncodedVideo

    def read() -> None:
        for clip in clips:
            video = EncodedVideo.from_path(str(path), decode_audio=False)
            found = video.get_clip(Fraction(clip[0], FPS), Fraction(clip[-1] + 1, FPS))
            assert found["video"] is not None
            video.close()

    return read


# One evaluation item


def _ten_clips(path: Path, rounds: int) -> Section:
    spec = ViewSpec(
        num_frames=32,
        frame_stride=2,
        num_clips=10,
        clip_rule="nonlocal",
        crops="full",
        short_side=256,
        crop_size=224,
    )

    def ours() -> None:
        with open_video(path) as video:
            frames, clips, _ = read_views(video, spec)
            assert len(frames) == video.stats.converted == len(torch.unique(clips))

    contestants: dict[str, Callable[[], object]] = {
        "raw, whole file": lambda: _decode_raw(path),
        "ours: frames once, clips as indices": ours,
    }
    section = Section("The 10-clip item of one video, 32x2, 340x256, GOP 30", {})
    with suppress(ImportError):
        contestants["pytorchvideo, constant clips"] = _pytorchvideo_dataset(path)
    times = cpu_seconds(contestants, rounds)
    item = times["ours: frames once, clips as indices"]
    section.ms = {name: round(1000 * seconds, 2) for name, seconds in times.items()}
    section.compare("raw decode of the whole file / ours", times["raw, whole file"], item, 0.68)
    if "pytorchvideo, constant clips" in times:
        peer = times["pytorchvideo, constant clips"]
        section.compare("pytorchvideo, constant clips / ours", peer, item, 5)
    return section


def _pytorchvideo_dataset(path: Path) -> Callable[[], object]:
    from pytorchvideo.data import LabeledVideoDataset
    from pytorchvideo.data.clip_sampling import ConstantClipsPerVideoSampler

    def read() -> None:
        sampler = ConstantClipsPerVideoSampler(clip_duration=64 / FPS, clips_per_video=10)
        rows = [(str(path), {"label": 0})]
        videos = LabeledVideoDataset(rows, sampler, decode_audio=False)  # type: ignore[arg-type]
        assert sum(1 for _ in videos) == 10

    return read


# Augmentation and transport


def _augmentation(rounds: int) -> Section:
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (64, 320, 568, 3), dtype=np.uint8)

    def cut_first() -> None:
        draws = np.random.default_rng(1)
        train_crop(frames, short_side=(256, 320), crop_size=224, flip=0.5, rng=draws)

    def resize_first() -> None:
        height, width = short_side_size(320, 568, 288)
        resize(torch.from_numpy(frames), height, width)[:, 30:254, 40:264].contiguous()

    def in_float() -> None:
        """What PySlowFast does: float32, normalized, resized, cropped."""
        clip = (torch.from_numpy(frames).float() / 255 - 0.45) / 0.225
        clip = clip.permute(3, 0, 1, 2)
        F.interpolate(clip, (288, 511), mode="bilinear")[..., 30:254, 40:264].contiguous()

    names = ("ours: cut, then resize, uint8", "resize, then cut, uint8", "float32, resize, cut")
    contestants: Contestants = dict(zip(names, (cut_first, resize_first, in_float), strict=True))
    times = cpu_seconds(contestants, rounds)
    ours, whole, floats = (times[name] for name in names)
    section = Section("Augmenting a clip of 64 frames, 568x320 to 224x224", {})
    section.ms = {name: round(1000 * seconds, 2) for name, seconds in times.items()}
    section.compare("resize, then cut / ours", whole, ours, 2)
    section.compare("float32, resize, cut / ours", floats, ours, None)
    return section


class _Batches(Dataset[Tensor]):
    """The same clips again and again: only their transport costs."""

    def __init__(self, as_float: bool) -> None:
        self.as_float = as_float
        self.clips = torch.randint(0, 256, (4, 64, 224, 224, 3), dtype=torch.uint8)

    def __len__(self) -> int:
        return _BATCHES

    def __getitem__(self, number: int) -> Tensor:
        if not self.as_float:
            return self.clips.clone()
        return ((self.clips / 255 - 0.45) / 0.225).permute(0, 4, 1, 2, 3).contiguous()


def _transport() -> Section:
    """CPU time of this process and its worker, since the work is divided between them."""
    times = {}
    for name, as_float in (("uint8", False), ("float32, normalized by the worker", True)):
        start = _cpu_of_family()
        loader = DataLoader(_Batches(as_float), batch_size=None, num_workers=1)
        for batch in loader:
            assert len(batch) == 4
        del loader
        times[name] = _cpu_of_family() - start
    small, large = times.values()
    ms = {name: round(1000 * seconds / _BATCHES, 2) for name, seconds in times.items()}
    section = Section("A batch of 4 clips of 64x224x224 from a worker", ms)
    section.compare("float32 / uint8", large, small, 5)
    return section


def _cpu_of_family() -> float:
    """CPU seconds of this process and of its children that have ended."""
    parts = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)
