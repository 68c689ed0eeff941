"""What an examination of the machine found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

State = Literal["ok", "note", "bad"]


@dataclass(frozen=True)
class Finding:
    """One thing looked at.

    Attributes:
        name: what.
        state: "note" for what limits some uses, "bad" for what must be mended before a training.
        said: what is there, with units.
        advice: what to do; empty when there is nothing to.
    """

    name: str
    state: State
    said: str
    advice: str = ""
