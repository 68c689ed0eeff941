"""What a training took: clips, wall time and machine hours, from its own records."""

from __future__ import annotations

from dataclasses import dataclass

from videogn.report.records import Run, is_number


@dataclass(frozen=True)
class Cost:
    """What the steps of a training took; monitoring, saving and the test come on top.

    Attributes:
        clips: that were trained on.
        seconds: of wall time, 0 where no rate was recorded.
        machines: how many devices took part.
        device: "GPU" or "core": what `hours` are hours of.
    """

    clips: int
    seconds: float
    machines: int
    device: str

    @property
    def hours(self) -> float:
        """Device hours: of GPUs, or of all cores that the machine has."""
        return self.seconds * self.machines / 3600


def training_cost(run: Run) -> Cost | None:
    """Returns what the records of a run tell, None without any step in them."""
    batch = clips_per_step(run)
    steps = 0
    seconds = 0.0
    for record in run.records:
        step, rate = record.get("step"), record.get("clips_per_s")
        if record.get("split") == "train" and is_number(step) and step > steps:
            if is_number(rate) and rate > 0:
                seconds += (step - steps) * batch / rate
            steps = int(step)
    if not steps:
        return None
    world = run.env.get("world_size")
    world = int(world) if is_number(world) else 1
    on_gpu = bool(run.env.get("gpus")) and run.config.get("device") in ("auto", "cuda")
    cores = run.env.get("cpus")
    cores = int(cores) if is_number(cores) else 1
    return Cost(steps * batch, seconds, world if on_gpu else cores, "GPU" if on_gpu else "core")


def clips_per_step(run: Run) -> int:
    """Returns how many clips a step of the training sees, over all processes."""
    told = (run.test or {}).get("clips_per_step")
    if is_number(told):
        return int(told)
    product = 1
    for value in (
        run.config.get("optim.clips_per_gpu"),
        run.config.get("optim.accumulate"),
        run.env.get("world_size"),
    ):
        product *= int(value) if is_number(value) else 1
    return product


def time_text(seconds: float) -> str:
    """Returns a length of time in its largest unit: "46 s", "2.1 min", "12.5 h"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 3600 else f"{seconds / 3600:,.1f} h"


def hardware(run: Run) -> str:
    """Returns the machine of a run in words, empty if it does not tell."""
    env = run.env
    gpus = (
        [str(name) for name in env.get("gpus") or []] if isinstance(env.get("gpus"), list) else []
    )
    parts = [f"{gpus.count(name)} x {name}" for name in dict.fromkeys(gpus)]
    parts += [f"{env['cpus']} cores"] if is_number(env.get("cpus")) else []
    parts += [str(env["system"])] if env.get("system") else []
    return ", ".join(parts)


def software(run: Run) -> str:
    """Returns the versions that can change a result, and the commit of the code."""
    packages = run.env.get("packages")
    packages = packages if isinstance(packages, dict) else {}
    names = {"python": run.env.get("python"), **packages}
    parts = [f"{name} {version}" for name, version in names.items() if version]
    git = run.env.get("git")
    if isinstance(git, dict) and git.get("commit"):
        changed = " with changes" if git.get("dirty") else ""
        parts.append(f"commit {str(git['commit'])[:10]}{changed}")
    return ", ".join(parts)
