"""Many strings in two buffers: what a loader worker shares with its parent without copying it.

A list of 260,000 `str` objects is 260,000 reference counts. Reading one writes to its page, so that
each forked worker ends up with a copy of the whole list, column by column.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings: their UTF-8 bytes one after another, and where each ends.

    Equal to any sequence of the same strings. An item is decoded when it is asked for.
    """

    __slots__ = ("_bytes", "_ends")
    __hash__ = None  # type: ignore[assignment]  # equal to lists, which have none

    def __init__(self, strings: Iterable[str] = ()) -> None:
        builder = StringsBuilder()
        builder.extend(list(strings))
        self._bytes, self._ends = builder.buffers()

    @classmethod
    def from_buffers(cls, content: bytes, ends: np.ndarray) -> PackedStrings:
        """The strings in `content`; `ends` is int64 (N + 1,), 0 and then the end of each, bytes."""
        packed = cls.__new__(cls)
        packed._bytes, packed._ends = content, ends
        return packed

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> PackedStrings: ...
    def __getitem__(self, index: int | slice) -> str | PackedStrings:
        if isinstance(index, slice):
            return PackedStrings(self[at] for at in range(*index.indices(len(self))))
        at = range(len(self))[index]  # IndexError and negative numbers as lists have them
        return self._bytes[self._ends[at] : self._ends[at + 1]].decode()

    def __iter__(self) -> Iterator[str]:
        start = 0
        for end in self._ends[1:].tolist():
            yield self._bytes[start:end].decode()
            start = end

    def __eq__(self, other: object) -> bool:
        if isinstance(other, PackedStrings):
            return self._bytes == other._bytes and np.array_equal(self._ends, other._ends)
        if isinstance(other, (list, tuple)):
            return len(self) == len(other) and all(
                mine == theirs for mine, theirs in zip(self, other, strict=True)
            )
        return NotImplemented

    def __reduce__(self) -> tuple[object, ...]:
        return PackedStrings.from_buffers, (self._bytes, self._ends)

    def __repr__(self) -> str:
        shown = ", ".join(repr(text) for text in self[:3])
        return f"PackedStrings({len(self)}: {shown}{', ...' if len(self) > 3 else ''})"


class StringsBuilder:
    """Collects strings for a `PackedStrings` piece by piece: they never exist all at once."""

    def __init__(self) -> None:
        self._content = bytearray()
        self._sizes: list[np.ndarray] = []

    def extend(self, strings: Sequence[str]) -> None:
        """Appends `strings`."""
        text = "".join(strings)
        content = text.encode()
        if len(content) == len(text):  # ASCII: lengths in characters are lengths in bytes
            sizes = map(len, strings)
        else:
            sizes = (len(string.encode()) for string in strings)
        self._content += content
        self._sizes.append(np.fromiter(sizes, np.int64, len(strings)))

    def buffers(self) -> tuple[bytes, np.ndarray]:
        """The bytes, and int64 (N + 1,), where the strings end in them after a leading 0."""
        sizes = np.concatenate([np.zeros(1, np.int64), *self._sizes])
        return bytes(self._content), np.cumsum(sizes)

    def build(self) -> PackedStrings:
        """All strings so far."""
        return PackedStrings.from_buffers(*self.buffers())
