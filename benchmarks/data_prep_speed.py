"""How long data_prep takes for each video, and what that makes for all of Kinetics-400.

    PYTHONPATH=. python benchmarks/data_prep_speed.py VIDEO [--archives 4] [--bytes 350e6]
        [--encoded 20] [--jobs 2] [--out FILE.json]

Packs copies of VIDEO under Kinetics' names into .tar.gz archives, then runs k400, verify and
reencode on them as a user would, each as a process of its own. CPU seconds are those of that
process and its workers. Files are in the page cache: a disk may be slower than what is measured.
"""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import platform
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import av

ALL_VIDEOS = 240_258 + 19_881  # files of train and val in the official copy
ALL_BYTES = 443e9  # unpacked, with test
REENCODE = {
    "reencode": [],
    "reencode --short-side 256 --preset veryfast --crf 23": [
        *("--short-side", "256", "--preset", "veryfast", "--crf", "23"),
    ],
}


def main() -> None:
    """Prints the figures; with `--out` also writes them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("video", type=Path)
    parser.add_argument("--archives", type=int, default=4)
    parser.add_argument("--bytes", type=float, default=350e6, help="of videos in an archive")
    parser.add_argument("--encoded", type=int, default=20, help="videos to encode anew")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments)
    result["command"] = " ".join(["python benchmarks/data_prep_speed.py", *sys.argv[1:]])
    result["date"] = datetime.now(UTC).date().isoformat()
    result["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}"
    result["versions"] = f"Python {platform.python_version()}, av {av.__version__}"
    text = json.dumps(result, indent=1)
    print(text)
    if arguments.out:
        arguments.out.write_text(text + "\n", encoding="utf-8")


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, object]:
    """The figures, by name; seconds of CPU are for one video."""
    content = arguments.video.read_bytes()
    each = max(1, round(arguments.bytes / len(content)))
    count = each * arguments.archives
    write_copy(folder / "raw", content, [each] * arguments.archives)
    write_copy(folder / "few", content, [arguments.encoded])
    jobs = ["--jobs", str(arguments.jobs)]
    unpacked, _ = timed("k400", folder / "raw", "--out", folder / "root", *jobs)
    timed("k400", folder / "few", "--out", folder / "part", *jobs)
    _, fast = timed("verify", folder / "root", "--fast", *jobs)
    (folder / "root/verify.jsonl").unlink()
    _, full = timed("verify", folder / "root", *jobs)
    result: dict[str, object] = {
        "video": f"{arguments.video.name}, {len(content)} bytes, {_picture(arguments.video)}",
        "videos": count,
        "k400 MB/s": round(count * len(content) / 1e6 / unpacked, 1),
        "k400 all, min": round(ALL_BYTES / (count * len(content)) * unpacked / 60, 1),
        **_per_video("verify", full / count),
        **_per_video("verify --fast", fast / count),
    }
    for name, options in REENCODE.items():
        out = folder / f"new{len(options)}"
        _, cpu = timed("reencode", folder / "part", "--out", out, *options, *jobs)
        mean = sum(file.stat().st_size for file in out.rglob("*.mp4")) / arguments.encoded
        result |= _per_video(name, cpu / arguments.encoded)
        result[f"{name} MB each"] = round(mean / 1e6, 3)
        result[f"{name} all, GB"] = round(mean * ALL_VIDEOS / 1e9)
    return result


def write_copy(source: Path, content: bytes, counts: Iterable[int]) -> None:
    """A copy of Kinetics-400 whose archives hold `content` so many times, each under its own id."""
    (source / "train").mkdir(parents=True)
    rows = ["label,youtube_id,time_start,time_end,split"]
    for part, count in enumerate(counts):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as file:
            for _ in range(count):
                video = f"{len(rows):011d}"
                info = tarfile.TarInfo(f"./{video}_000000_000010.mp4")
                info.size = len(content)
                file.addfile(info, io.BytesIO(content))
                rows.append(f"abseiling,{video},0,10,train")
        (source / "train" / f"part_{part}.tar.gz").write_bytes(gzip.compress(tar.getvalue(), 6))
    (source / "train.csv").write_text("\n".join(rows) + "\n", encoding="ascii")


def timed(*arguments: object) -> tuple[float, float]:
    """Runs a command of data_prep; returns seconds of the clock and of CPU."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    command = [sys.executable, "-m", "data_prep", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _per_video(name: str, seconds: float) -> dict[str, object]:
    hours = seconds * ALL_VIDEOS / 3600
    return {f"{name} CPU s": round(seconds, 3), f"{name} all, core-hours": round(hours, 1)}


def _picture(video: Path) -> str:
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        return f"{stream.width}x{stream.height}, {stream.frames} frames"


if __name__ == "__main__":
    main()
