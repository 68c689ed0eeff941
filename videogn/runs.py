"""Run folders: where a run writes, what it says of itself, and which one a rerun goes on with."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from videogn.config import scientific

# Whose versions can change a result.
PACKAGES = ("torch", "torchvision", "av", "numpy", "videogn")


def new_run_folder(base: Path) -> Path:
    """Returns a folder that does not exist yet, named after the time, under `base`."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    folder, number = base / stamp, 1
    while folder.exists():
        number += 1
        folder = base / f"{stamp}-{number}"
    return folder


def find_resumable(base: Path, config: Mapping[str, Any]) -> Path | None:
    """Returns the newest run folder under `base` with a checkpoint of the same experiment.

    Args:
        base: `runs/<name>`.
        config: as written, in plain values; an `auto` in it agrees with whatever it became.
    """
    wanted = scientific(dict(config))
    for folder in sorted(base.glob("*/"), reverse=True):
        stored = read_config(folder)
        if stored is None or not any((folder / "checkpoints").glob("step_*.pt")):
            continue
        have = scientific(stored)
        if have.keys() == wanted.keys() and all(
            value in ("auto", have[key]) for key, value in wanted.items()
        ):
            return folder
    return None


def read_config(folder: Path) -> dict[str, Any] | None:
    """Returns the resolved config of a run folder; None when it holds no readable one."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError:
        return None
    return config if isinstance(config, dict) else None


def write_run_files(folder: Path, config: Mapping[str, Any], world: int) -> None:
    """Writes `config.yaml` and `env.json` of a new run."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(dict(config), sort_keys=False)
    (folder / "config.yaml").write_text(text, encoding="utf-8")
    write_json(folder / "env.json", environment() | {"world_size": world})


def environment() -> dict[str, Any]:
    """Returns versions, hardware and the state of the code; nothing personal."""
    cuda = torch.cuda.is_available()
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda if cuda else None,
        "packages": {name: _version(name) for name in PACKAGES},
        "git": _git_state(),
    }


def write_json(path: Path, value: Any) -> None:
    """Writes `value` as indented json, whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def rewind_records(path: Path, step: int) -> None:
    """Drops the records of steps after `step`: those a killed run logged but did not save.

    A last line cut short by the kill goes too.
    """
    if not path.is_file():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if record.get("step", 0) <= step:
            kept.append(line + "\n")
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text("".join(kept), encoding="utf-8")
    temporary.replace(path)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_state() -> dict[str, Any] | None:
    """Returns the commit of the code and whether it was changed; None outside a checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", *words], cwd=here, capture_output=True, text=True, check=True, timeout=10
        )
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
