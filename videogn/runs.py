"""Run folders: where a run writes, what it says of itself, and which one a rerun goes on with."""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import math
import os
import platform
import re
import subprocess
import time
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
import yaml

from videogn import restarts
from videogn.config import scientific
from videogn.config.settings import defaults
from videogn.engine import checkpoint
from videogn.engine.durable import replacing
from videogn.errors import CheckpointError

# Whose versions can change a result.
PACKAGES = ("torch", "torchvision", "av", "numpy", "videogn")
_IN_FOLDER_NAME = ("eval.num_clips", "eval.crops", "eval.clip_rule", "eval.short_side")

log = logging.getLogger(__name__)


def claim_run_folder(base: Path) -> Path:
    """Makes and returns a folder of one's own under `base`, named after the time."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    for number in itertools.count(1):
        folder = base / (stamp if number == 1 else f"{stamp}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:  # another run began in the same second
            continue
        return folder
    raise AssertionError


def find_resumable(base: Path, config: Mapping[str, Any], *, job: str | None = None) -> Path | None:
    """Returns the newest run folder under `base` with a checkpoint of the same experiment.

    Args:
        base: `runs/<name>`.
        config: as written, in plain values; an `auto` in it agrees with whatever it became.
        job: that must have begun the run, if any; see `restarts`.
    """
    for folder in sorted(base.glob("*/"), key=_age, reverse=True):
        if not has_checkpoints(folder) or (job and job != begun_by(folder)):
            continue
        stored = stored_config(folder)
        if stored is not None and not differing_keys(config, stored):
            return folder
    return None


def begun_by(folder: Path) -> str | None:
    """Returns the job that began a run, None if it was none."""
    return (read_json(folder / "env.json") or {}).get("job")


def has_checkpoints(folder: Path) -> bool:
    """Returns whether a run folder holds something to go on from."""
    return any((folder / "checkpoints").glob("step_*.pt"))


def _age(folder: Path) -> tuple[str, int]:
    """Returns what sorts run folders by time: `-10` of a second comes after its `-9`."""
    stamp, _, number = folder.name.partition("-")
    second, _, number = number.partition("-")
    return f"{stamp}-{second}", int(number) if number.isdecimal() else 1


def differing_keys(config: Mapping[str, Any], stored: Mapping[str, Any]) -> list[str]:
    """Returns the scientific keys in which a config as written differs from a resolved one.

    A key that the stored one lacks was not known yet: its default is what the code did then.
    """
    wanted = scientific(dict(config))
    then = {key: setting.value for key, setting in defaults().items() if key in wanted}
    have = then | scientific(dict(stored))
    return sorted(
        key
        for key in wanted.keys() | have.keys()
        if key not in have or wanted.get(key) not in ("auto", have[key])
    )


def test_folder(
    path: Path, step: int, config: Mapping[str, Any], stored: Mapping[str, Any]
) -> Path:
    """Returns where a test of the checkpoint at `path` goes: `<run>/test_<what>`.

    No two different tests share one: it is named after the weights, the protocol, and what else
    differs from the run's own configuration.

    Args:
        path: the checkpoint.
        step: that it is of; `last.pt` and `best.pt` change. 0: of none, as converted weights.
        config: of the test.
        stored: of the run.
    """
    run = path.parent.parent if path.parent.name == "checkpoints" else path.parent
    says_it = not step or path.stem.startswith("step_")
    weights = path.stem if says_it else f"{path.stem}_{step:09d}"
    e = config["eval"]
    words = ["test", weights, f"{e['num_clips']}x{e['crops']}", e["clip_rule"], e["short_side"]]
    have = scientific(dict(config))
    other = {
        key: have.get(key) for key in differing_keys(config, stored) if key not in _IN_FOLDER_NAME
    }
    for key, value in other.items():
        words.append(f"{key.rpartition('.')[2]}-{re.sub('[^A-Za-z0-9.]+', '-', str(value))[-30:]}")
    if other:  # values may look alike once they are part of a name
        words.append(hashlib.sha256(json.dumps(other).encode()).hexdigest()[:8])
    return run / "_".join(map(str, words))


def stored_config(folder: Path) -> dict[str, Any] | None:
    """Returns the config of a run with checkpoints, if need be that in the newest of them.

    None, with a warning, when neither can be read.
    """
    config = read_config(folder)
    if config is not None:
        return config
    try:
        found = checkpoint.newest(folder / "checkpoints")
    except (CheckpointError, OSError) as error:
        log.warning("%s is passed over: its config.yaml cannot be read, and %s", folder, error)
        return None
    return found[1].get("config") if found else None


def read_config(folder: Path) -> dict[str, Any] | None:
    """Returns the resolved config of a run folder; None when it holds no readable one."""
    path = folder / "config.yaml"
    if not path.is_file():
        return None
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError):
        return None
    return config if isinstance(config, dict) else None


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Writes the resolved config beside the results it explains."""
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / "config.yaml") as file:
        file.write(yaml.safe_dump(dict(config), sort_keys=False).encode())


def write_run_files(
    folder: Path, config: Mapping[str, Any], world: int, data: Mapping[str, Any] | None = None
) -> None:
    """Writes `config.yaml` and `env.json` of a new run; `data` says what it was trained on."""
    write_config(folder, config)
    facts = {"world_size": world, "data": data, "job": restarts.job()}
    write_json(folder / "env.json", environment() | facts)


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
    text = json.dumps(value, indent=2) + "\n"
    with replacing(path) as file:
        file.write(text.encode())


def spelled(value: Any) -> Any:
    """Returns plain values with the numbers that json has none for as words: "nan", "-inf"."""
    if isinstance(value, Mapping):
        return {key: spelled(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [spelled(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path) -> dict[str, Any] | None:
    """Returns the object in a json file, None when there is none that can be read."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # not json, or no text at all
        return None
    return value if isinstance(value, dict) else None


def read_records(path: Path) -> list[dict[str, Any]]:
    """Returns the objects of a jsonl file, without a last line that a kill has cut short."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def rewind_records(path: Path, step: int, *, measured: bool = True) -> None:
    """Drops the records of steps after `step`: those a killed run logged but did not save.

    Args:
        path: of a jsonl file; a line that a kill has cut short goes too.
        step: to go on from.
        measured: whether what is measured after that step, as on the validation videos, has been;
            otherwise its records are dropped as well, and it is measured again.
    """

    def stays(record: Mapping[str, Any]) -> bool:
        of, split = record.get("step", 0), record.get("split", "train")
        return of < step or (of == step and (measured or split == "train"))

    if not path.is_file():
        return
    kept = [json.dumps(record) + "\n" for record in read_records(path) if stays(record)]
    with replacing(path) as file:
        file.write("".join(kept).encode())


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
