"""What it costs that a run cannot be lost: a checkpoint, and a step, with the safety and without.

    PYTHONPATH=. OMP_NUM_THREADS=1 python benchmarks/run_cost.py [--rounds 5] [--out FILE.json]

The checkpoint is that of the paper's network (I3D ResNet-50 with GN, 400 classes) with its
momentum. Its parts are timed in turn, round after round, in CPU seconds of one thread; waiting for
the disk, which takes no CPU, is given in seconds of the clock. The step is one of the same network,
of one short clip: the checks' work depends on the weights alone, so that any larger step hides more
of it. The medians of the rounds are compared.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from videogn import build
from videogn.config import load_config
from videogn.engine import checkpoint, distributed, watchdog
from videogn.engine.divergence import require_finite
from videogn.engine.precise_bn import average_bn
from videogn.engine.state import Hooks, TrainState

CLASSES = 400
KEPT = 3  # keep_checkpoints by default, each read back after a save
_CLIP = (1, 3, 16, 224, 224)  # 1/16 of the elements of the paper's four clips of 64 frames


def main() -> None:
    """Prints the figures; with `--out` also writes them as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    short = ["model.init=null", f"data.num_frames={_CLIP[2]}", f"data.crop_size={_CLIP[3]}"]
    config = build.resolve(load_config("i3d_gn_64f.yaml", short), CLASSES)
    state = build.build_state(config, build.build_model(config, CLASSES), torch.device("cpu"))
    _step(state)  # makes the momentum buffers
    with tempfile.TemporaryDirectory() as folder:
        saving = measure_saving(state, Path(folder), arguments.rounds)
    stepping = measure_step(state, build.build_train_options(config), arguments.rounds)
    result = saving | stepping | compare(saving, stepping, config.save_every_steps)
    result |= {
        "rounds": arguments.rounds,
        "command": "PYTHONPATH=. OMP_NUM_THREADS=1 " + " ".join(["python", *sys.argv]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}",
    }
    for key, value in result.items():
        print(f"{key:36} {value}")
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


def measure_saving(state: TrainState, folder: Path, rounds: int) -> dict[str, float]:
    """Seconds of saving the state: plainly, with the digest, and as a run does it."""
    contents = {"model": state.model.state_dict(), "optimizer": state.optimizer.state_dict()}
    kept = [checkpoint.step_file(folder, step) for step in range(1, KEPT + 1)]
    for path in kept:
        checkpoint.save(path, contents)

    def plain() -> None:
        torch.save(contents, folder / "plain.pt")

    def flush() -> None:
        with (folder / "plain.pt").open("r+b") as file:
            os.fsync(file.fileno())

    parts: dict[str, Callable[[], object]] = {
        "save_plain": plain,
        "save_fsync": flush,
        "save_serialize": lambda: torch.save(contents, io.BytesIO()),
        "save_digest": lambda: checkpoint.digest(contents),
        "save_safe": lambda: checkpoint.save(kept[-1], contents),
        "save_verify_kept": lambda: checkpoint.prune(folder, KEPT, kept[-1]),
        "load_safe": lambda: checkpoint.load(kept[-1]),
        "load_plain": lambda: torch.load(folder / "plain.pt", weights_only=True),
    }
    seconds = in_turn(parts, rounds)
    return {"checkpoint_MB": round(kept[0].stat().st_size / 1e6, 1)} | seconds


def measure_step(state: TrainState, options: Any, rounds: int) -> dict[str, float]:
    """Seconds of a step without any check, and of the checks that each step makes."""
    hooks = Hooks()
    loss = _step(state)

    def checks() -> None:
        watchdog.now("step 1")
        distributed.all_sum(torch.tensor([0, 0]))  # whether anything could not be read
        gradients = [p.grad for p in state.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        require_finite(state, loss, norm, [0], options, hooks)
        average_bn(state.model)
        watchdog.now("what follows step 1")
        distributed.any_rank(hooks.interrupted())

    return in_turn({"step": lambda: _step(state), "step_checks": checks}, rounds)


def compare(saving: dict[str, float], stepping: dict[str, float], every: int) -> dict[str, Any]:
    """Ratios, and what a step bears of the checkpoints at the default interval, in percent."""
    step, checks = stepping["step_cpu_s"], stepping["step_checks_cpu_s"]
    digest, flush = saving["save_digest_cpu_s"], saving["save_fsync_s"]
    more = saving["save_safe_cpu_s"] - saving["save_plain_cpu_s"]
    more += saving["save_verify_kept_cpu_s"]
    return {
        "save_safe_to_plain_cpu": round(saving["save_safe_cpu_s"] / saving["save_plain_cpu_s"], 2),
        "load_safe_to_plain_cpu": round(saving["load_safe_cpu_s"] / saving["load_plain_cpu_s"], 2),
        "step_checks_percent": round(100 * checks / step, 3),
        "save_every_steps": every,
        "digest_and_fsync_percent_of_step": round(100 * (digest + flush) / every / step, 4),
        "all_safety_percent_of_step": round(100 * ((more + flush) / every + checks) / step, 3),
        # Steps longer than this bear less than 1 % for digest and flush.
        "step_ms_for_1_percent": round(1000 * (digest + flush) / every / 0.01, 1),
    }


def in_turn(parts: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median seconds of each part, of CPU and of the clock, all of them once each round."""
    taken: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, part in parts.items():
            cpu, clock = time.process_time(), time.perf_counter()
            part()
            taken.setdefault(f"{name}_cpu_s", []).append(time.process_time() - cpu)
            taken.setdefault(f"{name}_s", []).append(time.perf_counter() - clock)
    return {name: round(statistics.median(values), 4) for name, values in taken.items()}


def _step(state: TrainState) -> Tensor:
    """Takes a step that checks nothing; returns its loss."""
    state.optimizer.zero_grad(set_to_none=True)
    state.model.train()
    loss = F.cross_entropy(state.model(torch.randn(_CLIP)), torch.tensor([7]))
    loss.backward()
    state.optimizer.step()
    return loss.detach()


if __name__ == "__main__":
    main()
