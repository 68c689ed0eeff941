"""The manifest at the size of Kinetics-400: CPU time to load, memory that each loader worker adds.

    PYTHONPATH=. python benchmarks/manifest_scale.py [--rows 260000] [--workers 4] [--out FILE.json]

Private memory (USS: Private_Clean + Private_Dirty of /proc/self/smaps_rollup, Linux) of real
DataLoader workers after they have read every path and column entry of the manifest once, less
that of the same workers over a manifest of 16 rows: what the manifest itself adds to each.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from videogn.data.frame_index import FrameIndex
from videogn.data.kinetics import kinetics400_classes
from videogn.data.manifest import Manifest, read_manifest, write_manifest

_SMALL = 16  # rows of the manifest whose workers show what a worker costs without one


def main() -> None:
    """Prints a table; with `--out` also writes it as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, default=260_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.rows, arguments.workers)
    for key, value in result.items():
        print(f"{key:28} {value}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def measure(folder: Path, rows: int, workers: int) -> dict[str, object]:
    """The figures, by name: seconds of CPU, MB."""
    write_root(folder / "large", rows)
    write_root(folder / "small", _SMALL)
    start = time.process_time()
    manifest = read_manifest(folder / "large", "train")
    seconds = time.process_time() - start
    small = read_manifest(folder / "small", "train")
    result: dict[str, object] = {
        "rows": rows,
        "columns": 2 + len(manifest.columns),
        "csv_MB": round((folder / "large" / "train.csv").stat().st_size / 1e6, 1),
        "load_cpu_s": round(seconds, 2),
    }
    gc.collect()
    for method in ("fork", "spawn"):
        base = worker_memory(small, workers, method)
        used = worker_memory(manifest, workers, method)
        result[f"{method}_worker_base_MB"] = [round(value, 1) for value in base]
        result[f"{method}_worker_MB"] = [round(value, 1) for value in used]
        result[f"{method}_worker_adds_MB"] = round(max(used) - min(base), 1)
    result["command"] = " ".join(["python", "benchmarks/manifest_scale.py", *sys.argv[1:]])
    result["date"] = time.strftime("%Y-%m-%d")
    result["machine"] = f"{platform.machine()}, {platform.system()}"
    result["versions"] = f"Python {platform.python_version()}, torch {torch.__version__}"
    return result


def write_root(root: Path, rows: int) -> None:
    """Writes a data root like that of Kinetics-400 after `verify`: 12 columns, a frame index."""
    rng = np.random.default_rng(0)
    classes = kinetics400_classes()
    index = FrameIndex(
        file_size=412_345,
        num_frames=300,
        pts=np.arange(300, dtype=np.int64) * 512,
        keyframes=[(key * 30 * 512, key * 30 * 512) for key in range(10)],
    ).to_text()
    letters = np.array(list("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"))
    ids = ["".join(name) for name in letters[rng.integers(0, 64, (rows, 11))]]
    labels = rng.integers(0, len(classes), rows).tolist()
    table = [
        {
            "path": f"train/{classes[label]}/{name}_000012_000022.mp4",
            "label": classes[label],
            "label_id": str(label),
            "youtube_id": name,
            "start": "12",
            "end": "22",
            "num_frames": "300",
            "fps": "29.97002997",
            "width": "340",
            "height": "256",
            "ok": "1",
            "index": index,
        }
        for name, label in zip(ids, labels, strict=True)
    ]
    write_manifest(root, splits={"train": table}, classes=classes, source=None)


class _Reader(Dataset[float]):
    """Each item reads the whole manifest; the value is the worker's private memory then, MB."""

    def __init__(self, manifest: Manifest, items: int) -> None:
        self.manifest, self.items = manifest, items

    def __len__(self) -> int:
        return self.items

    def __getitem__(self, item: int) -> float:
        manifest = self.manifest
        for row in range(len(manifest)):
            _ = manifest.paths[row], int(manifest.labels[row])
        for column in manifest.columns.values():
            for row in range(len(manifest)):
                _ = column[row]
        gc.collect()  # touches every object that the collector tracks, as a long run does
        return private_memory()


def worker_memory(manifest: Manifest, workers: int, method: str) -> list[float]:
    """The private memory of each of `workers` loader workers, MB, after reading `manifest`."""
    loader = DataLoader(
        _Reader(manifest, workers),
        batch_size=1,
        num_workers=workers,
        multiprocessing_context=method,
        collate_fn=first,
    )
    return sorted(loader)


def first(batch: list[float]) -> float:
    """The one item of `batch`; a function with a name, which spawn can pickle."""
    return batch[0]


def private_memory() -> float:
    """The memory that only this process holds, MB."""
    total = 0
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            total += int(line.split()[1])
    return total * 1024 / 1e6


if __name__ == "__main__":
    main()
