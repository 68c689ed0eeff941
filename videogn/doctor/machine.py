"""The machine itself: versions, devices, disk, memory and limits."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import torch

from videogn.doctor.finding import Finding, State

# As pyproject.toml demands; a test keeps the two equal.
NEEDED = {"torch": "2.11", "torchvision": "0.26", "av": "18", "numpy": "1.26", "wandb": "0.31"}
OPTIONAL = ("decord", "torchcodec", "pytorchvideo", "onnxruntime")

_WRITTEN = 64 << 20  # bytes with which the disk is tried
_CHECKPOINTS = 2e9  # bytes: three of I3D ResNet-50 with momentum, and the best, and room
_LEAST_SHARED = 1 << 30  # bytes: batches of a few workers at 64 x 256 x 340
_LEAST_FILES = 1024  # each worker's batches and pipes take some tens


def versions() -> Iterator[Finding]:
    """Yields Python's version and those of the libraries."""
    yield Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    for name, least in NEEDED.items():
        yield _library(name, least)
    found = [f"{name} {have}" for name in OPTIONAL if (have := version(name))]
    yield Finding("optional", "ok", ", ".join(found) or "none")


def version(name: str) -> str:
    """Returns the version of an installed package, "" when it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _library(name: str, least: str) -> Finding:
    have = version(name)
    if not have:
        return Finding(name, "bad", "not installed", f"pip install '{name}>={least}'")
    if _numbers(have) < _numbers(least):
        return Finding(name, "bad", have, f"pip install '{name}>={least}'")
    return Finding(name, "ok", have)


def _numbers(text: str) -> list[int]:
    parts = text.partition("+")[0].split(".")
    return [int(part) for part in parts if part.isdecimal()]


def devices() -> Iterator[Finding]:
    """Yields the processor and each GPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    yield Finding(
        "cpu", "ok", f"{cores} cores, {torch.get_num_threads()} threads, {memory:.1f} GB memory"
    )
    for number in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(number)
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        said = (
            f"{properties.name}, {properties.total_memory / 1e9:.1f} GB, CUDA {torch.version.cuda}"
        )
        yield Finding(
            f"gpu {number}",
            "ok" if bf16 else "note",
            said + (", bf16" if bf16 else ", no bf16"),
            "" if bf16 else "use optim.amp=fp16 in place of bf16",
        )
    if torch.cuda.is_available():
        return
    if torch.backends.mps.is_available():
        yield Finding("gpu", "ok", "Apple's, through MPS")
        return
    cuda = torch.version.cuda
    advice = "demo.yaml and small.yaml train on a CPU; the experiments of Table 8 need GPUs"
    if cuda:
        advice = f"torch is built for CUDA {cuda}: look at the driver with nvidia-smi; {advice}"
    yield Finding("gpu", "note", "none that torch sees", advice)


def disk(place: Path) -> Finding:
    """Returns the free space and the speed of the disk that `place` lies, or will lie, on."""
    folder = next(p for p in (place, *place.absolute().parents) if p.is_dir())
    try:
        speed = _write_speed(folder)
    except OSError as error:
        advice = "choose another place with run_dir=FOLDER, or mend its permissions"
        return Finding("disk", "bad", f"{folder}: {error.strerror}", advice)
    free = shutil.disk_usage(folder).free
    said = f"{free / 1e9:.1f} GB free at {folder}, {speed / 1e6:.0f} MB/s written to the disk"
    if free < _CHECKPOINTS:
        return Finding("disk", "bad", said, f"a run needs {_CHECKPOINTS / 1e9:g} GB: make room")
    return Finding("disk", "ok", said)


def _write_speed(folder: Path) -> float:
    """Returns bytes per second, synchronized as checkpoints are."""
    block = os.urandom(1 << 20)  # a disk that compresses finds nothing in it
    with tempfile.TemporaryFile(dir=folder) as file:
        began = time.perf_counter()
        for _ in range(_WRITTEN // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
        return _WRITTEN / (time.perf_counter() - began)


def shared_memory(place: Path = Path("/dev/shm")) -> Finding:  # of Linux
    """Returns the size of the memory through which loader processes hand on clips."""
    if not place.is_dir():
        return Finding("shared memory", "ok", f"this system has no {place}")
    size = shutil.disk_usage(place).total
    state: State = "ok" if size >= _LEAST_SHARED else "note"
    advice = "start the container with --shm-size=8g, or use data.num_workers=0"
    return Finding("shared memory", state, f"{size / 1e9:.2f} GB", "" if state == "ok" else advice)


def open_files() -> Finding:
    """Returns how many files a process may hold open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES
    advice = "" if enough else f"ulimit -n {_LEAST_FILES} before training with workers"
    return Finding("open files", "ok" if enough else "note", f"{soft}, at most {hard}", advice)
