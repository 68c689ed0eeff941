"""What types cannot say of a configuration: ranges, and values that must fit together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from itertools import pairwise
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, NamedTuple

from videogn.config.keys import Key, keys
from videogn.config.sections import Config

_TESTS = {"least": ge, "above": gt, "most": le, "below": lt}
_SIGNS = {"least": ">=", "above": ">", "most": "<=", "below": "<"}


class Problem(NamedTuple):
    """A key whose value cannot be: `wanted` says in words what could."""

    path: str
    value: Any
    wanted: str


def problems(config: Config) -> Iterator[Problem]:
    """Yields what is wrong with a configuration; ranges first, on which the rest relies."""
    yield from _ranges(config)
    yield from _names(config)
    yield from _norm(config)
    yield from _recompute(config)
    yield from _data(config)
    yield from _optim(config)


def range_in_words(key: Key) -> str:
    """Returns the range of a key's numbers, as "> 0 and <= 1"; "" without one."""
    bounds = [(name, bound) for name, bound in key.bounds.items() if bound is not None]
    return " and ".join(f"{_SIGNS[name]} {bound}" for name, bound in bounds)


def _ranges(config: Config) -> Iterator[Problem]:
    values = asdict(config)
    for key in keys().values():
        value: Any = values
        for part in key.path.split("."):
            value = value[part]
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, int | float) and not _is_within(key, number):
                each = "numbers, each " if isinstance(value, list) else "a number "
                yield Problem(key.path, value, each + range_in_words(key))


def _is_within(key: Key, number: float) -> bool:
    limits = [(name, limit) for name, limit in key.bounds.items() if limit is not None]
    return all(_TESTS[name](number, limit) for name, limit in limits)


def _names(config: Config) -> Iterator[Problem]:
    name = config.name
    if Path(name).name != name or name in ("", ".."):
        yield Problem("name", name, "a name for a folder under runs/, without slashes")


def _norm(config: Config) -> Iterator[Problem]:
    """Every layer has `width` times a power of two channels, so `width` decides."""
    norm, width = config.model.norm, config.model.width
    size, per_group = norm.sub_batch, norm.channels_per_group
    if norm.kind == "gn":
        key = "num_groups" if per_group is None else "channels_per_group"
        value = norm.num_groups if per_group is None else per_group
        if width % value:
            wanted = f"a divisor of model.width={width}, the channels of the first layer"
            yield Problem(f"model.norm.{key}", value, wanted)
    if size is None:
        return
    if norm.kind != "bn":
        yield Problem("model.norm.sub_batch", size, f"null with kind={norm.kind}; it is for bn")
    clips = config.optim.clips_per_gpu
    if clips % size:
        yield Problem("model.norm.sub_batch", size, f"a divisor of optim.clips_per_gpu={clips}")


def _recompute(config: Config) -> Iterator[Problem]:
    model = config.model
    if model.recompute != "none" and model.compile != "none":
        wanted = f"none with model.compile={model.compile}, which chooses itself what to recompute"
        yield Problem("model.recompute", model.recompute, wanted)


def _data(config: Config) -> Iterator[Problem]:
    data = config.data
    if len(data.short_side) != 2 or data.short_side[0] > data.short_side[1]:
        wanted = "two numbers of pixels [from, to], from <= to"
        yield Problem("data.short_side", data.short_side, wanted)
    wanted = f"at least data.crop_size={data.crop_size}"
    if data.short_side[0] < data.crop_size:
        yield Problem("data.short_side", data.short_side, wanted)
    if config.eval.short_side < data.crop_size:
        yield Problem("eval.short_side", config.eval.short_side, wanted)
    clips = config.optim.clips_per_gpu
    if clips % data.clips_per_decode:
        wanted = f"a divisor of optim.clips_per_gpu={clips}"
        yield Problem("data.clips_per_decode", data.clips_per_decode, wanted)
    for path, value in (("data.mean", data.mean), ("data.std", data.std)):
        if value != "auto" and len(value) != 3:
            yield Problem(path, value, "'auto', or three numbers (R, G, B)")


def _optim(config: Config) -> Iterator[Problem]:
    optim = config.optim
    if any(second <= first for first, second in pairwise(optim.milestones)):
        yield Problem("optim.milestones", optim.milestones, "increasing epochs")
    if optim.nesterov and optim.momentum == 0:
        yield Problem("optim.momentum", 0.0, "a number > 0, or optim.nesterov=false")
