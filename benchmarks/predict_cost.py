"""What predicting costs beside the network itself, with pytorchvideo's way in the same run.

    PYTHONPATH=. python benchmarks/predict_cost.py VIDEO... [--clips 3] [--rounds 2] [--out FILE]

The network is i3d_gn_32f.yaml's with random weights, one thread, center crops of 224. Ours is
`Classifier.answers`; theirs opens each video with `EncodedVideo`, and for each clip takes
`get_clip`, `UniformTemporalSubsample`, division by 255, normalization, `ShortSideScale` and a
center crop, in the order and form of its tutorials. CPU seconds; what the forward passes take is
measured in the thread that runs them and taken off. Both networks are given equal frames first, to
show that they answer the same.

    PYTHONPATH=. python benchmarks/predict_cost.py --long MINUTES [--every SECONDS]

makes a video of that length and slides over it with the same network: memory as it goes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
import torchvision
from torch import Tensor

from videogn import build
from videogn.config import load_config
from videogn.predict import Classifier
from videogn.predict.answers import Scores

MEAN, STD, SIDE, CROP = [0.45] * 3, [0.225] * 3, 256, 224
MB = 1e6


class Timed(Classifier):
    """A classifier that adds up the CPU seconds of its forward passes."""

    forward = 0.0

    def score(self, views: Tensor) -> Scores:
        """See `Classifier.score`."""
        begin = time.thread_time()
        result = super().score(views)
        self.forward += time.thread_time() - begin
        return result


def main() -> None:
    """Prints the figures; with `--out` also writes them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("videos", nargs="*")
    parser.add_argument("--clips", type=int, default=3, help="of each video")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--long", type=float, metavar="MINUTES")
    parser.add_argument("--every", type=float, default=20.0, help="seconds between windows")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    classifier = make_classifier(arguments.clips)
    if arguments.long:
        result = measure_long(classifier, arguments.long, arguments.every)
    else:
        result = measure(classifier, arguments.videos, arguments.clips, arguments.rounds)
    result["command"] = " ".join(["python benchmarks/predict_cost.py", *map(_name, sys.argv[1:])])
    result["date"] = datetime.now(UTC).date().isoformat()
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    result["versions"] = f"torch {torch.__version__}, av {av.__version__}, pytorchvideo 0.1.5"
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def _name(word: str) -> str:
    return Path(word).name if Path(word).exists() else word


def make_classifier(clips: int) -> Timed:
    """Returns the network of i3d_gn_32f.yaml with random weights."""
    config = load_config(
        "i3d_gn_32f.yaml",
        ["data.root=none", "model.init=null", "device=cpu", "eval.crops=center",
         f"eval.num_clips={clips}", f"eval.short_side={SIDE}", f"data.mean={MEAN}",
         f"data.std={STD}"],
    )  # fmt: skip
    model = build.build_model(config, 400)
    return Timed(
        model,
        [str(i) for i in range(400)],
        build.build_view_spec(config),
        to_input=build.build_to_input(config, torch.device("cpu")),
        device=torch.device("cpu"),
        views_per_forward=10,
    )


def measure(classifier: Timed, videos: list[str], clips: int, rounds: int) -> dict[str, Any]:
    """Returns CPU seconds and ratios, both ways in turns."""
    theirs = _pytorchvideo_way(classifier, clips)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, run in (("ours", lambda: list(classifier.answers(videos))),
                          ("pytorchvideo", lambda: theirs(videos))):  # fmt: skip
            classifier.forward = 0.0
            begin = time.process_time()
            run()
            total = time.process_time() - begin
            found.setdefault(f"{name}, all", []).append(total)
            found.setdefault(f"{name}, outside the forward pass", []).append(
                total - classifier.forward
            )
    seconds = {name: round(statistics.median(values), 2) for name, values in found.items()}
    outside = "outside the forward pass"
    return {
        "videos": len(videos),
        "clips of each": clips,
        "CPU seconds, median": seconds,
        "ours / pytorchvideo, " + outside: round(
            seconds[f"ours, {outside}"] / seconds[f"pytorchvideo, {outside}"], 3
        ),
        "ours / pytorchvideo, all": round(seconds["ours, all"] / seconds["pytorchvideo, all"], 3),
        "largest difference of probabilities on equal frames": _difference(classifier, videos[0]),
    }


def _pytorchvideo_way(classifier: Timed, num_clips: int) -> Callable[[list[str]], list[Tensor]]:
    """Returns a function videos -> their probabilities, as pytorchvideo's tutorials do it."""
    encoded_video, functional = _pytorchvideo()
    spec = classifier.spec
    span = spec.num_frames * spec.frame_stride

    def transformed(clip: Tensor) -> Tensor:
        clip = functional.uniform_temporal_subsample(clip, spec.num_frames)
        clip = functional.short_side_scale(_normalized(clip), SIDE)
        return torchvision.transforms.functional.center_crop(clip, [CROP, CROP])

    def probs(inputs: Tensor) -> Tensor:
        begin = time.thread_time()
        with torch.no_grad():
            result = classifier.model(inputs).softmax(-1)
        classifier.forward += time.thread_time() - begin
        return result

    def run(videos: list[str]) -> list[Tensor]:
        results = []
        for path in videos:
            video = encoded_video.EncodedVideo.from_path(path, decode_audio=False)
            duration = float(video.duration)
            seconds = min(span / 30, duration)
            starts = np.linspace(0, duration - seconds, num_clips)
            scores = []
            for start in starts:
                clip = video.get_clip(start, start + seconds)["video"]
                scores.append(probs(transformed(clip)[None]))
            video.close()
            results.append(torch.cat(scores).mean(0))
        return results

    return run


def _normalized(clip: Tensor) -> Tensor:
    """Float (3, T, H, W) of 0 to 255, normalized as `NormalizeVideo` does."""
    mean, std = (torch.tensor(values).view(3, 1, 1, 1) for values in (MEAN, STD))
    return (clip / 255 - mean) / std


def _pytorchvideo() -> tuple[Any, Any]:
    """Its modules; the transforms look for a module that torchvision has since renamed."""
    import pytorchvideo.data.encoded_video as encoded_video
    from torchvision.transforms import _functional_tensor

    sys.modules.setdefault("torchvision.transforms.functional_tensor", _functional_tensor)
    import pytorchvideo.transforms.functional as functional

    return encoded_video, functional


def _difference(classifier: Timed, path: str) -> float:
    """Their normalization and our input, given the same frames of a video."""
    from videogn.data.pyav_reader import PyAVReader
    from videogn.predict.views import whole_video

    with PyAVReader(path) as video:
        (piece,) = whole_video(video, classifier.spec)
    view = piece.views[0].cut()
    ours = classifier.score(view[None]).probs
    with torch.no_grad():
        theirs = classifier.model(_normalized(view.permute(3, 0, 1, 2).float())[None]).softmax(-1)
    return float((ours - theirs).abs().max())


def measure_long(classifier: Timed, minutes: float, every: float) -> dict[str, Any]:
    """Returns what memory an answer all along a long video takes, sampled from outside."""
    with tempfile.TemporaryDirectory() as folder:
        path = _write_long(Path(folder, "long.mp4"), minutes)
        before = _resident()
        samples: list[int] = []
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                samples.append(_resident())

        thread = threading.Thread(target=watch)
        thread.start()
        spans = classifier.timeline(path, every)
        done.set()
        thread.join()
    tenth = max(len(samples) // 10, 1)
    return {
        "minutes": minutes,
        "windows": len(spans),
        "MB before": round(before / MB),
        "MB above that, peak": round((max(samples) - before) / MB),
        "MB above that, peak of each tenth": [
            round((max(samples[i : i + tenth]) - before) / MB)
            for i in range(0, len(samples), tenth)
        ],
    }


def _resident() -> int:
    """Bytes of this process in memory; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _write_long(path: Path, minutes: float) -> Path:
    """Writes 340x256 frames at 30/s, a keyframe at most every 250."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = 340, 256, "yuv420p"
        for image in _moving(round(minutes * 60 * 30)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def _moving(count: int) -> Iterator[np.ndarray]:
    texture = np.random.default_rng(0).integers(0, 255, (64, 85, 3), np.uint8)
    texture = texture.repeat(4, 0).repeat(4, 1)
    for number in range(count):
        yield np.ascontiguousarray(np.roll(texture, number, axis=1))


if __name__ == "__main__":
    main()
