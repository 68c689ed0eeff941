"""The file of a W&B run read back, and what a run says in it.

A run file is a header of 7 bytes, then blocks of 32 KiB holding the pieces of protobuf records, as
LevelDB writes its logs: checksum (4 bytes), length (2), kind (1: whole, 2: first, 3: middle,
4: last), bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto import wandb_internal_pb2

Record: Any = wandb_internal_pb2.Record  # type: ignore[attr-defined]
BLOCK = 32 * 1024
HEADER = 7


class StoredArtifact(NamedTuple):
    """One version of an artifact."""

    name: str
    kind: str
    aliases: set[str]
    files: dict[str, Path]


@dataclass
class StoredRun:
    """What one `.wandb` file holds.

    Attributes:
        run: id, project, group, tags, job type, config as plain values.
        history: the points of all curves, without W&B's own keys.
        axes: metric or pattern -> what it is drawn over.
        summary: the final numbers.
        artifacts: each with name, kind, aliases, and its files as name -> where it waits.
        alerts: (title, text) each.
        exit_code: None when the run was not ended.
    """

    run: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    artifacts: list[StoredArtifact] = field(default_factory=list)
    alerts: list[tuple[str, str]] = field(default_factory=list)
    exit_code: int | None = None


def read_run(folder: Path) -> StoredRun:
    """Returns the only offline W&B run under a run folder."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    return read_file(path)


def read_file(path: Path) -> StoredRun:
    stored = StoredRun()
    for record in _records(path.read_bytes()):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            stored.run |= _run(record.run)
        elif kind == "history":
            point = _values(record.history.item)
            stored.history.append({k: v for k, v in point.items() if not k.startswith("_")})
        elif kind == "metric":
            metric = record.metric
            stored.axes[metric.name or metric.glob_name] = metric.step_metric
        elif kind == "summary":
            stored.summary |= _values(record.summary.update)
        elif kind == "artifact":
            a = record.artifact
            files = {entry.path: Path(entry.local_path) for entry in a.manifest.contents}
            stored.artifacts.append(StoredArtifact(a.name, a.type, set(a.aliases), files))
        elif kind == "alert":
            stored.alerts.append((record.alert.title, record.alert.text))
        elif kind == "exit":
            stored.exit_code = record.exit.exit_code
    return stored


def _run(run: Any) -> dict[str, Any]:
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    return {
        "id": run.run_id,
        "project": run.project,
        "name": run.display_name,
        "group": run.run_group,
        "tags": sorted(run.tags),
        "job_type": run.job_type,
        "config": config,
        "host": run.host,
    }


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[Any]:
    assert data[:4] == b":W&B"
    place, pieces = HEADER, b""
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # too short for a piece: the block ends in zeros
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + HEADER])
        if not kind:
            place += left
            continue
        pieces += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):
            yield Record.FromString(pieces)
            pieces = b""
