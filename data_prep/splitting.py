"""Which video is in which split, and that none is in two."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from data_prep.classes import Entry
from videogn.errors import DataError


def split_positions(
    labels: Sequence[str], fraction: float, seed: int
) -> tuple[list[int], list[int]]:
    """Positions of `labels` for training and for validation, disjoint, both sorted.

    About `fraction` of each class is for validation, in total as near as rounding allows, but
    never the last video of a class. Which ones, `seed` decides.
    """
    rng = np.random.default_rng(seed)
    by_class: dict[str, list[int]] = {}
    for position, label in enumerate(labels):
        by_class.setdefault(label, []).append(position)
    val: list[int] = []
    seen = 0
    for label in sorted(by_class):
        members = rng.permutation(by_class[label]).tolist()
        # Rounding the running total, not each class, also serves classes of few videos.
        take = round((seen + len(members)) * fraction) - round(seen * fraction)
        val += members[: min(take, len(members) - 1)]
        seen += len(members)
    return sorted(set(range(len(labels))) - set(val)), sorted(val)


def by_first_folder(source: str, entries: Sequence[Entry]) -> list[Entry]:
    """The entries with the split that the first folder of each path names.

    It must begin with `train` or with `val`, as copies of Kinetics have it (train, train_256, val,
    validation); DataError names the first path where it does not.
    """
    chosen: list[Entry] = []
    for entry in entries:
        first, slash, _ = entry.path.lower().partition("/")
        name = next((name for name in ("train", "val") if slash and first.startswith(name)), None)
        if name is None:
            raise DataError(
                f"{source}/{entry.path}: lies in no folder train or val of {source}; move it, or "
                "choose the split with --val FRACTION"
            )
        chosen.append(replace(entry, split=name))
    return chosen


def merge_repeated(entries: Sequence[Entry]) -> tuple[list[Entry], int]:
    """The entries, each video once in each split, and how many rows that leaves out.

    Raises DataError, naming both places, for a video with two labels.
    """
    first: dict[str, Entry] = {}
    kept: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        earlier = first.setdefault(entry.path, entry)
        if earlier.label != entry.label:
            raise DataError(
                f"{entry.place}: {entry.path!r} is {entry.label!r} here and {earlier.label!r} at "
                f"{earlier.place}; keep one label"
            )
        kept.setdefault((entry.path, entry.split), entry)
    return list(kept.values()), len(entries) - len(kept)


def refuse_shared(train: Sequence[Entry], val: Sequence[Entry]) -> None:
    """Raises DataError, naming both places, for a video in both, by path or YouTube id."""
    for kind, key in (
        ("path", lambda entry: entry.path),
        ("YouTube id", lambda entry: entry.fields.get("youtube_id", "")),
    ):
        held = {key(entry): entry for entry in val}
        for entry in train:
            if key(entry) and key(entry) in held:
                raise DataError(
                    f"{entry.place}: {kind} {key(entry)!r} is for training here and for validation "
                    f"at {held[key(entry)].place}; remove one of the two"
                )


def keep_few(entries: Sequence[Entry], count: int, seed: int) -> list[Entry]:
    """At most `count` videos of each class, in their order; `seed` decides which."""
    order = np.random.default_rng(seed).permutation(len(entries)).tolist()
    taken: dict[str, int] = {}
    kept: list[int] = []
    for position in order:
        label = entries[position].label
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= count:
            kept.append(position)
    return [entries[position] for position in sorted(kept)]
