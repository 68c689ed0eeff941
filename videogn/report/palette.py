"""One colour for each kind of normalization, the same in every figure."""

from __future__ import annotations

# On white and on nearly black; each has a contrast of at least 4.5 to its ground.
NORM_COLOURS = {
    "BN": ("#b4530a", "#f2a65e"),
    "GN": ("#1d5fa8", "#7fb6f2"),
    "LN": ("#2b7a32", "#86cb8b"),
    "IN": ("#7b3fa0", "#cda3ea"),
    "BRN": ("#a3243b", "#f596a6"),
    "SYNC_BN": ("#7a5a00", "#dcc25e"),
    "FROZEN_BN": ("#00706b", "#62ccc5"),
}
OTHER_COLOURS = ("#5b6470", "#9aa4b0")

# Settings of one norm are told apart by the line: (length, gap, ...) in its width. There are as
# many as batch sizes from 1 to 32 and two more.
DASHES: tuple[tuple[float, ...], ...] = (
    (),
    (5, 2),
    (1.5, 1.5),
    (7, 2, 1.5, 2),
    (10, 3),
    (1.5, 4),
    (5, 1.5, 1.5, 1.5, 1.5, 1.5),
    (2.5, 2.5),
)


def colours_of(norm: str) -> tuple[str, str]:
    """Returns the colours of a kind of normalization, for a light and for a dark ground."""
    return NORM_COLOURS.get(norm, OTHER_COLOURS)
