"""Pickles as Python 2 with numpy 1 wrote them, opcode by opcode."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np


def python2_pickle(blobs: Mapping[str, object], *, protocol: int = 2) -> bytes:
    """Returns what Python 2's `pickle.dump({"blobs": blobs}, protocol=0 or 2)` stood for.

    Its `str` is bytes: keys and the content of arrays alike. Values: arrays, floats, ints.
    """
    write = _Text() if protocol == 0 else _Binary()
    items = b"".join(write.string(k.encode()) + _value(write, v) + b"s" for k, v in blobs.items())
    return write.start + write.string(b"blobs") + write.empty_dict + items + b"s."


class _Text:
    start, empty_dict = b"(dp0\n", b"(d"

    def string(self, data: bytes) -> bytes:
        return b"S" + repr(data)[1:].encode() + b"\n"

    def integer(self, value: int) -> bytes:
        return b"I%d\n" % value


class _Binary:
    start, empty_dict = b"\x80\x02}q\x01", b"}"

    def string(self, data: bytes) -> bytes:
        if len(data) < 256:
            return b"U" + bytes([len(data)]) + data
        return b"T" + struct.pack("<i", len(data)) + data

    def integer(self, value: int) -> bytes:
        return b"J" + struct.pack("<i", value)


def _value(write: _Text | _Binary, value: object) -> bytes:
    if isinstance(value, np.ndarray):
        return _array(write, value)
    if isinstance(value, np.floating):
        return (
            b"cnumpy.core.multiarray\nscalar\n("
            + _dtype(write, value.dtype)
            + write.string(value.tobytes())
            + b"tR"
        )
    if isinstance(value, float):
        return b"F%r\n" % value
    assert isinstance(value, int)
    return write.integer(value)


def _array(write: _Text | _Binary, array: np.ndarray) -> bytes:
    shape = b"(" + b"".join(write.integer(size) for size in array.shape) + b"t"
    return (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n("
        + write.integer(0)
        + b"t"
        + write.string(b"b")
        + b"tR("
        + write.integer(1)
        + shape
        + _dtype(write, array.dtype)
        + b"I00\n"
        + write.string(array.tobytes())
        + b"tb"
    )


def _dtype(write: _Text | _Binary, dtype: np.dtype) -> bytes:
    order = b">" if dtype.byteorder == ">" else b"<"
    return (
        b"cnumpy\ndtype\n("
        + write.string(f"{dtype.kind}{dtype.itemsize}".encode())
        + write.integer(0)
        + write.integer(1)
        + b"tR("
        + write.integer(3)
        + write.string(order)
        + b"NNN"
        + write.integer(-1) * 2
        + write.integer(0)
        + b"tb"
    )
